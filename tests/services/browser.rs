//! Chromium, driven over pipes by the DevTools protocol: one JSON object after the other, each with a zero byte at its end.

use std::io::{BufRead, BufReader, Write};
use std::process::{ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use crate::programs::{DEADLINE, Program};
use crate::{Directory, said_by, tool};

pub(crate) struct Browser {
    program: Program,
    commands: ChildStdin,
    messages: Receiver<String>,
    id: u32,
    session: String,
    complaints: Vec<String>,
}

impl Browser {
    /// Starts it with an empty page and a profile in this folder.
    #[track_caller]
    pub(crate) fn start(folder: &Directory) -> Option<Self> {
        tool("chromium", &[])?;
        // The shell makes standard input and output the descriptors that Chromium reads commands from and answers to.
        let script = "exec chromium --headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run \
            --remote-debugging-pipe --user-data-dir=\"$0\" about:blank 3<&0 4>&1 </dev/null >/dev/null 2>&1";
        let mut shell = tool("sh", &["-c", script, &folder.path("profile")])?;
        let mut child = shell.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let (commands, answers) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let (message, messages) = channel();
        std::thread::spawn(move || {
            let said = BufReader::new(answers).split(0).map_while(Result::ok);
            said.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).try_for_each(|text| message.send(text))
        });
        let program = Program::of(child);
        let mut browser =
            Browser { program, commands, messages, id: 0, session: String::new(), complaints: Vec::new() };
        let made = browser.call("Target.createTarget", r#"{"url":"about:blank"}"#);
        let target = format!(r#"{{"targetId":"{}","flatten":true}}"#, text(&made, "targetId"));
        let attached = browser.call("Target.attachToTarget", &target);
        browser.session = format!(r#","sessionId":"{}""#, text(&attached, "sessionId"));
        for domain in ["Runtime", "Log", "Page"] {
            browser.call(&format!("{domain}.enable"), "{}");
        }
        Some(browser)
    }

    #[track_caller]
    pub(crate) fn open(&mut self, url: &str) {
        self.call("Page.navigate", &format!(r#"{{"url":"{url}"}}"#));
    }

    /// The value of an expression in the page, as text.
    #[track_caller]
    pub(crate) fn evaluate(&mut self, expression: &str) -> String {
        let expression = format!("String({expression})").replace('\\', "\\\\").replace('"', "\\\"");
        let answer = self.call("Runtime.evaluate", &format!(r#"{{"expression":"{expression}","returnByValue":true}}"#));
        text(&answer, "value")
    }

    /// Waits until an expression is true.
    #[track_caller]
    pub(crate) fn until(&mut self, expression: &str) {
        let begun = Instant::now();
        while self.evaluate(expression) != "true" {
            assert!(begun.elapsed() < DEADLINE, "{expression} does not come true: {:?}", self.complaints);
        }
    }

    #[track_caller]
    pub(crate) fn size(&mut self, width: u32, height: u32) {
        let metrics = format!(r#"{{"width":{width},"height":{height},"deviceScaleFactor":1,"mobile":false}}"#);
        self.call("Emulation.setDeviceMetricsOverride", &metrics);
    }

    #[track_caller]
    pub(crate) fn dark(&mut self, on: bool) {
        let value = if on { "dark" } else { "light" };
        let media = format!(r#"{{"features":[{{"name":"prefers-color-scheme","value":"{value}"}}]}}"#);
        self.call("Emulation.setEmulatedMedia", &media);
    }

    /// Saves a picture in the folder that the variable SCREENSHOTS names, if there is one.
    #[track_caller]
    pub(crate) fn screenshot(&mut self, name: &str) {
        let Some(folder) = std::env::var("SCREENSHOTS").ok() else { return };
        let answer = self.call("Page.captureScreenshot", "{}");
        std::fs::write(format!("{folder}/{name}.base64"), text(&answer, "data")).unwrap();
        let decode = format!("base64 -d <'{folder}/{name}.base64' >'{folder}/{name}.png'");
        said_by(&mut tool("sh", &["-c", &decode]).unwrap());
    }

    /// Errors on the console, exceptions, and requests that failed.
    pub(crate) fn complaints(&self) -> Vec<String> {
        self.complaints.clone()
    }

    #[track_caller]
    fn call(&mut self, method: &str, parameters: &str) -> String {
        self.id += 1;
        let (id, session) = (self.id, &self.session);
        write!(self.commands, "{{\"id\":{id},\"method\":\"{method}\",\"params\":{parameters}{session}}}\0").unwrap();
        loop {
            let message = self.messages.recv_timeout(DEADLINE).expect("the browser answers");
            if message.starts_with(&format!("{{\"id\":{id},")) {
                assert!(!message.contains("\"error\":{"), "{method}: {message}");
                return message;
            }
            let is_error = ["\"Runtime.exceptionThrown\"", "\"level\":\"error\"", "\"type\":\"error\""];
            if is_error.iter().any(|part| message.contains(part)) {
                self.complaints.push(message);
            }
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It closes itself when the pipe closes; the profile must not be removed before.
        let _ = write!(self.commands, "{{\"id\":0,\"method\":\"Browser.close\"}}\0");
        let _ = self.program.exited.recv_timeout(DEADLINE).map(|status| self.program.status = Some(status));
    }
}

/// The text of a member of a JSON object that has no quotes in it.
#[track_caller]
fn text(json: &str, member: &str) -> String {
    let start = format!("\"{member}\":\"");
    let from = json.find(&start).unwrap_or_else(|| panic!("no {member} in {json}")) + start.len();
    json[from..].split('"').next().unwrap().to_owned()
}
