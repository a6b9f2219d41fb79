//! Servers from elsewhere: `--server NAME='CMD {addr}'`.

use super::{Contender, NAMES, Program, Threads};
use crate::job::{Address, Job, Transport};
use std::process::Command;

const ADDRESS: &str = "{addr}";
const JOB: &str = "{job}";
const TRANSPORT: &str = "{transport}";

/// A command for a shell. `{addr}` stands for the address; one with `{job}` does every job, one with `{transport}`
/// serves every kind of socket.
#[derive(Clone, Debug)]
pub(super) struct Template(String);

impl Template {
    fn parse(text: &str) -> Result<Template, String> {
        if text.contains(ADDRESS) {
            Ok(Template(text.to_owned()))
        } else {
            Err(format!("no {ADDRESS}, where the address would stand, in {text:?}"))
        }
    }

    fn serves(&self) -> Vec<(Transport, Job)> {
        super::everything()
            .into_iter()
            .filter(|&(transport, _)| transport == Transport::Tcp || self.0.contains(TRANSPORT))
            .filter(|&(_, job)| job == Job::Echo || self.0.contains(JOB))
            .collect()
    }

    /// The shell becomes the server, so that the process that is measured is the server's.
    pub(super) fn command(&self, job: Job, address: &Address) -> Command {
        // The address comes last: whatever is in it is not looked through.
        let text = self.0.replace(JOB, job.word()).replace(TRANSPORT, address.transport().word());
        let mut command = Command::new("sh");
        command.arg("-c").arg(format!("exec {}", text.replace(ADDRESS, &address.to_string())));
        command
    }
}

/// In the order given.
pub(super) fn contenders(templates: &[(String, String)]) -> Result<Vec<Contender>, String> {
    let mut contenders: Vec<Contender> = Vec::new();
    for (name, text) in templates {
        if NAMES.contains(&name.as_str()) || contenders.iter().any(|other| other.name == *name) {
            return Err(format!("--server {name}: the name is taken"));
        }
        let template = Template::parse(text).map_err(|error| format!("--server {name}: {error}"))?;
        contenders.push(Contender {
            name: name.clone(),
            version: text.clone(),
            // Nobody knows: it is asked for everything, and not put under callgrind.
            threads: Threads::One,
            native: false,
            serves: template.serves(),
            half_close: true,
            program: Program::Outside(template),
        });
    }
    Ok(contenders)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Contender {
        contenders(&[("mine".to_owned(), text.to_owned())]).expect("a template").remove(0)
    }

    fn script(contender: &Contender, job: Job, address: &Address) -> String {
        let command = contender.command(job, address);
        assert_eq!(command.get_program(), "sh");
        command.get_args().last().expect("a script").to_string_lossy().into_owned()
    }

    #[test]
    fn words_in_braces_are_replaced() {
        let address = Address::Tcp(([127, 0, 0, 1], 7).into());
        let contender = one("run --at={addr} {job} {transport} {addr} {else}");
        assert_eq!(
            script(&contender, Job::EchoOnce, &address),
            "exec run --at=127.0.0.1:7 echo-once tcp 127.0.0.1:7 {else}"
        );
        let address = Address::Unix("/tmp/{job}".into());
        assert_eq!(script(&one("run {transport}:{addr}"), Job::Echo, &address), "exec run unix:/tmp/{job}");
    }

    #[test]
    fn what_it_serves_shows_in_its_template() {
        assert_eq!(one("run {addr}").serves, [(Transport::Tcp, Job::Echo)]);
        assert_eq!(one("run {job} {addr}").serves, [(Transport::Tcp, Job::Echo), (Transport::Tcp, Job::EchoOnce)]);
        let echo = [Transport::Tcp, Transport::Unix, Transport::Udp].map(|transport| (transport, Job::Echo));
        assert_eq!(one("run {transport} {addr}").serves, echo);
        assert_eq!(one("run {job} {transport} {addr}").serves, super::super::everything());
    }

    #[test]
    fn a_template_has_an_address_and_a_name_of_its_own() {
        let refused = |names: &[&str], text: &str| {
            let templates: Vec<_> = names.iter().map(|&name| (name.to_owned(), text.to_owned())).collect();
            contenders(&templates).expect_err("refused")
        };
        assert!(refused(&["mine"], "run {address}").contains("no {addr}"));
        assert!(refused(&["tokio"], "run {addr}").contains("taken"));
        assert!(refused(&["mine", "mine"], "run {addr}").contains("taken"));
    }
}
