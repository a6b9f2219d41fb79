//! The mail server: `swaks`, Python's `smtplib`, `openssl s_client`, and hostile clients.

use std::io::Write;
use std::net::TcpStream;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::programs::{Program, start};
use crate::{Directory, Random, certificate, expect, resets, rest, said_by, said_by_python, tool, trickle, write};

const GREETING: &str = "220 localhost ESMTP ready\r\n";
const HELLO: &str = "250-localhost\r\n250-PIPELINING\r\n250-SIZE 26214400\r\n250-8BITMIME\r\n";
const NO_TLS: &str = "250 ENHANCEDSTATUSCODES\r\n";

/// A connection that has been greeted.
#[track_caller]
fn greeted(mail: &Program) -> TcpStream {
    let mut client = mail.connect();
    expect(&mut client, GREETING);
    client
}

#[test]
fn mail_speaks_rfc_5321() {
    let Some(mut mail) = start("mail", &["127.0.0.1:0"]) else { return };
    let mut client = greeted(&mail);
    for (command, reply) in DIALOGUE {
        write(&mut client, command);
        expect(&mut client, reply);
    }
    assert_eq!(rest(&mut client), b"");
    mail.stops_in_good_order();
}

#[test]
fn mail_does_not_depend_on_how_commands_are_split() {
    let Some(mut mail) = start("mail", &["127.0.0.1:0"]) else { return };
    let commands: String = DIALOGUE.iter().map(|(command, _)| *command).collect();
    let replies: String = DIALOGUE.iter().map(|(_, reply)| *reply).collect();
    for size in [1, 2, 3, 7, 64, usize::MAX] {
        let mut client = greeted(&mail);
        client.set_nodelay(true).unwrap();
        commands.as_bytes().chunks(size.min(commands.len())).for_each(|chunk| write(&mut client, chunk));
        assert_eq!(String::from_utf8(rest(&mut client)).unwrap(), replies);
    }
    mail.stops_in_good_order();
}

/// Commands with their replies.
const DIALOGUE: &[(&str, &str)] = &[
    ("MAIL FROM:<a@b>\r\n", "503 5.5.1 EHLO comes first, then one MAIL\r\n"),
    ("EHLO\r\n", "501 5.5.4 wrong arguments\r\n"),
    (
        "EHLO me\r\n",
        "250-localhost\r\n250-PIPELINING\r\n250-SIZE 26214400\r\n250-8BITMIME\r\n250 ENHANCEDSTATUSCODES\r\n",
    ),
    ("DATA\r\n", "503 5.5.1 MAIL and RCPT come first\r\n"),
    ("RCPT TO:<c@d>\r\n", "503 5.5.1 MAIL comes first\r\n"),
    ("MAIL FROM:a@b\r\n", "501 5.1.7 not FROM:<address>\r\n"),
    ("MAIL FROM:<a@b> SIZE=26214401\r\n", "552 5.3.4 the message is too large\r\n"),
    ("MAIL FROM:<a@b> SIZE=99999999999999999999\r\n", "552 5.3.4 the message is too large\r\n"),
    ("MAIL FROM:<a@b> RET=FULL\r\n", "555 5.5.4 no such parameter\r\n"),
    ("mail from:<> size=10 body=8bitmime\r\n", "250 2.1.0 sender taken\r\n"),
    ("MAIL FROM:<a@b>\r\n", "503 5.5.1 EHLO comes first, then one MAIL\r\n"),
    ("RCPT TO:<>\r\nRCPT TO:<c@d> NOTIFY=NEVER\r\n", "501 5.1.3 not TO:<address>\r\n555 5.5.4 no such parameter\r\n"),
    ("RCPT TO:<c@d>\r\nRCPT TO: <e@f>\r\n", "250 2.1.5 recipient taken\r\n250 2.1.5 recipient taken\r\n"),
    ("DATA x\r\nDATA\r\n", "501 5.5.4 wrong arguments\r\n354 end with a line that is a dot\r\n"),
    // 6 bytes, an empty line of 2, a dot with a line of 3, 8-bit text, and a dot that is text.
    ("text\r\n\r\n...\r\n.x\r\n\u{e9}\r\n..\r\n.\r\n", "250 2.0.0 thrown away: 22 bytes for 2\r\n"),
    ("DATA\r\nRSET\r\n", "503 5.5.1 MAIL and RCPT come first\r\n250 2.0.0 forgotten\r\n"),
    // All at once.
    (
        "MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n.\r\nNOOP\r\n",
        "250 2.1.0 sender taken\r\n250 2.1.5 recipient taken\r\n354 end with a line that is a dot\r\n\
         250 2.0.0 thrown away: 0 bytes for 1\r\n250 2.0.0 done\r\n",
    ),
    ("VRFY x\r\nBDAT 5\r\n", "252 2.5.0 every address is taken\r\n500 5.5.1 no such command\r\n"),
    ("STARTTLS\r\n", "502 5.5.1 there is no TLS to start\r\n"),
    ("HELO me\r\nQUIT\r\n", "250 localhost\r\n221 2.0.0 goodbye\r\n"),
];

#[test]
fn mail_refuses_what_is_no_address_and_no_parameter() {
    let Some(mut mail) = start("mail", &["127.0.0.1:0"]) else { return };
    let mut client = greeted(&mail);
    write(&mut client, "HELO me\r\n");
    expect(&mut client, "250 localhost\r\n");
    let ascii = "553 5.6.7 an address is ASCII, because SMTPUTF8 is not offered\r\n";
    for (command, reply) in [
        ("MAIL FROM:<a@b> SIZE=x", "501 5.5.4 SIZE is no number\r\n"),
        ("MAIL FROM:<a@b> SIZE=+1", "501 5.5.4 SIZE is no number\r\n"),
        ("MAIL FROM:<a@b> SIZE=", "501 5.5.4 SIZE is no number\r\n"),
        ("MAIL FROM:<a@b> SIZE", "501 5.5.4 SIZE is no number\r\n"),
        ("MAIL FROM:<a@b> SIZE=1 size=2", "501 5.5.4 the same parameter twice\r\n"),
        ("MAIL FROM:<a@b>SIZE=1", "501 5.1.7 not FROM:<address>\r\n"),
        ("MAIL FROM:<a<b>", "501 5.1.7 not FROM:<address>\r\n"),
        ("MAIL FROM:<\"a>b@c>", "501 5.1.7 not FROM:<address>\r\n"),
        ("MAIL FROM:<\u{e9}@b>", ascii),
        ("MAIL FROM:<\"a>\\\"<b\"@c> SIZE=1 BODY=7BIT", "250 2.1.0 sender taken\r\n"),
        ("RCPT TO:<c@\u{e9}>", ascii),
        ("RCPT TO:<c@d>NOTIFY=NEVER", "501 5.1.3 not TO:<address>\r\n"),
        ("RCPT TO:<\"c>\"@d>", "250 2.1.5 recipient taken\r\n"),
    ] {
        write(&mut client, format!("{command}\r\n"));
        expect(&mut client, reply);
    }
    mail.stops_in_good_order();
}

#[test]
fn mail_limits_messages_recipients_lines_and_errors() {
    let Some(mut mail) = start("mail", &["127.0.0.1:0", "--message-bytes-max", "1000"]) else { return };
    let begin = "HELO me\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n";
    let begun =
        "250 localhost\r\n250 2.1.0 sender taken\r\n250 2.1.5 recipient taken\r\n354 end with a line that is a dot\r\n";
    let large = "552 5.3.4 the message is too large\r\n";
    let line = "x".repeat(98) + "\r\n";
    for (lines, end) in [
        (10, "250 2.0.0 thrown away: 1000 bytes for 1\r\n250 2.0.0 done\r\n"),
        (11, &format!("{large}250 2.0.0 done\r\n")),
    ] {
        let mut client = greeted(&mail);
        write(&mut client, format!("{begin}{}.\r\nNOOP\r\n", line.repeat(lines)));
        expect(&mut client, format!("{begun}{end}"));
    }
    // One without an end.
    let mut client = greeted(&mail);
    write(&mut client, format!("{begin}{}", line.repeat(21)));
    assert_eq!(String::from_utf8(rest(&mut client)).unwrap(), format!("{begun}{large}"));

    let mut client = greeted(&mail);
    write(&mut client, format!("HELO me\r\nMAIL FROM:<a@b>\r\n{}", "RCPT TO:<c@d>\r\n".repeat(101)));
    expect(&mut client, "250 localhost\r\n250 2.1.0 sender taken\r\n");
    expect(&mut client, "250 2.1.5 recipient taken\r\n".repeat(100) + "452 4.5.3 too many recipients\r\n");

    let mut client = greeted(&mail);
    write(&mut client, "x".repeat(10_000));
    assert_eq!(rest(&mut client), b"500 5.5.2 the line is too long\r\n");

    let mut client = greeted(&mail);
    write(&mut client, "FOO\r\n".repeat(30));
    assert_eq!(
        String::from_utf8(rest(&mut client)).unwrap(),
        "500 5.5.1 no such command\r\n".repeat(20) + "421 4.7.0 too many errors\r\n"
    );

    // Messages do not count as commands without a message.
    let mut client = greeted(&mail);
    let message = "MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n.\r\n";
    write(&mut client, format!("HELO me\r\n{}{}", message.repeat(50), "NOOP\r\n".repeat(101)));
    let said = String::from_utf8(rest(&mut client)).unwrap();
    assert_eq!(said.matches("thrown away").count(), 50);
    let last = "250 2.0.0 done\r\n".repeat(100) + "421 4.7.0 too many commands without a message\r\n";
    assert!(said.ends_with(&format!("for 1\r\n{last}")), "{said}");
    mail.stops_in_good_order();
}

#[test]
fn mail_says_the_name_that_it_is_given() {
    let Some(mut mail) = start("mail", &["127.0.0.1:0", "--name", "mail.example.com"]) else { return };
    let mut client = mail.connect();
    expect(&mut client, "220 mail.example.com ESMTP ready\r\n");
    write(&mut client, "EHLO me\r\n");
    expect(&mut client, "250-mail.example.com\r\n");
    mail.stops_in_good_order();
}

/// CVE-2023-51764 and its relatives: where one server sees the end of a message, another must not see text.
#[test]
fn mail_lets_no_message_be_smuggled_into_another() {
    let Some(mut mail) = start("mail", &["127.0.0.1:0"]) else { return };
    let second = "MAIL FROM:<forged@b>\r\nRCPT TO:<c@d>\r\nDATA\r\nforged\r\n.\r\n";
    for end in [
        "\n.\n",
        "\n.\r\n",
        "\r\n.\n",
        "\r.\r",
        "\r.\r\n",
        "\r\n.\r",
        "\r\r\n.\r\r\n",
        "\r\n\n.\r\n",
        "\r\n.\r\r\n",
        "x\n",
        "\rx\r\n",
    ] {
        let mut client = greeted(&mail);
        write(&mut client, "HELO me\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n");
        write(&mut client, format!("text{end}{second}"));
        let said = String::from_utf8(rest(&mut client)).unwrap();
        assert!(said.ends_with("dot\r\n521 5.5.2 a line ends with CR and LF\r\n"), "{end:?}: {said}");
        assert!(!said.contains("thrown away"), "{end:?}: {said}");
    }
    for command in ["NOOP\n", "NOOP\rNOOP\r\n", "NOOP\r\r\n"] {
        let mut client = greeted(&mail);
        write(&mut client, command);
        assert_eq!(rest(&mut client), b"521 5.5.2 a line ends with CR and LF\r\n", "{command:?}");
    }
    mail.stops_in_good_order();
}

fn with_tls(scratch: &Directory) -> Option<Program> {
    let [cert, key] = certificate(scratch);
    start("mail", &["127.0.0.1:0", "--tls", &cert, &key])
}

/// CVE-2011-0411: what was sent before TLS must not be taken for what was sent under it.
#[test]
fn mail_takes_no_command_that_follows_starttls_without_tls() {
    let scratch = Directory::new();
    let Some(mut mail) = with_tls(&scratch) else { return };
    let mut client = greeted(&mail);
    write(&mut client, "EHLO me\r\n");
    expect(&mut client, format!("{HELLO}250-STARTTLS\r\n{NO_TLS}"));
    write(&mut client, "STARTTLS\r\nNOOP\r\n");
    assert_eq!(rest(&mut client), b"554 5.5.1 nothing may follow STARTTLS\r\n");
    // Somebody who then does not speak TLS harms nobody.
    let mut client = greeted(&mail);
    write(&mut client, "STARTTLS\r\n");
    expect(&mut client, "220 2.0.0 go on\r\n");
    write(&mut client, "NOOP\r\n".repeat(100));
    assert!(!rest(&mut client).starts_with(b"250"));
    still_serves(&mut mail);
}

// ---- hostile clients ----

#[test]
fn mail_gives_up_on_clients_that_trickle() {
    let Some(mut mail) = start("mail", &["127.0.0.1:0", "--message-timeout", "0.3"]) else { return };
    for (begin, more) in [("", &b"x"[..]), ("HELO me\r\nMAIL FROM:<>\r\nRCPT TO:<c@d>\r\nDATA\r\n", b"x\r\n")] {
        let mut client = greeted(&mail);
        let begun = Instant::now();
        write(&mut client, begin);
        let said = String::from_utf8(trickle(&mut client, more)).unwrap();
        assert!(said.ends_with("421 4.4.2 that took too long\r\n"), "{said}");
        assert!(begun.elapsed() >= Duration::from_millis(300));
    }
    still_serves(&mut mail);
}

#[test]
fn mail_survives_garbage_and_resets() {
    let scratch = Directory::new();
    let Some(mut mail) = with_tls(&scratch) else { return };
    let mut random = Random::new();
    let good: Vec<u8> = DIALOGUE.iter().flat_map(|(command, _)| command.bytes()).collect();
    for round in 0..200 {
        let garbage = match round % 3 {
            0 => (0..random.below(3_000)).map(|_| random.below(256) as u8).collect(),
            1 => random.spoil(&good),
            _ => [&b"STARTTLS\r\n"[..], &[22, 3, 1], &random.spoil(&good)].concat(),
        };
        let mut client = mail.connect();
        let _ = client.write_all(&garbage).and_then(|()| client.shutdown(std::net::Shutdown::Write));
        rest(&mut client);
    }
    resets(&mail, &good.repeat(20));
    still_serves(&mut mail);
}

#[test]
fn mail_does_not_read_on_from_a_client_that_never_reads() {
    let Some(mut mail) = start("mail", &["127.0.0.1:0"]) else { return };
    let mut deaf = mail.connect();
    deaf.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let mut sent = 0;
    write(&mut deaf, "HELO me\r\n");
    while deaf.write_all(&b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n.\r\n".repeat(100)).is_ok() {
        sent += 1;
        assert!(sent < 100_000, "the server reads on");
    }
    still_serves(&mut mail);
}

#[test]
fn mail_says_goodbye_when_it_stops() {
    let Some(mut mail) = start("mail", &["127.0.0.1:0"]) else { return };
    let mut client = greeted(&mail);
    mail.signal("TERM");
    assert_eq!(rest(&mut client), b"421 4.3.2 the server stops\r\n");
    assert_eq!(mail.exit().code(), Some(0));
}

#[track_caller]
fn still_serves(mail: &mut Program) {
    let mut client = greeted(mail);
    write(&mut client, "NOOP\r\nQUIT\r\n");
    assert_eq!(rest(&mut client), b"250 2.0.0 done\r\n221 2.0.0 goodbye\r\n");
    mail.stops_in_good_order();
}

// ---- the clients that people use ----

#[test]
fn mail_serves_swaks() {
    let scratch = Directory::new();
    let Some(mut mail) = with_tls(&scratch) else { return };
    let server = mail.address.unwrap().to_string();
    let arguments =
        ["--server", &server, "--from", "a@example.com", "--to", "b@example.com,c@example.com", "--body", ".\n..x"];
    for more in [&[][..], &["--pipeline"], &["--protocol", "SMTP"]] {
        let Some(mut swaks) = tool("swaks", &arguments) else { return };
        let said = said_by(swaks.args(more));
        assert!(said.contains("for 2") && said.contains("221 2.0.0 goodbye"), "{said}");
    }
    // Debian recommends the module for TLS, but does not require it.
    if said_by_perl("Net::SSLeay") {
        let Some(mut swaks) = tool("swaks", &arguments) else { return };
        let said = said_by(swaks.arg("--tls"));
        assert!(said.contains("TLS started") && said.contains("for 2"), "{said}");
    }
    mail.stops_in_good_order();
}

fn said_by_perl(module: &str) -> bool {
    let found = tool("perl", &[&format!("-M{module}"), "-e1"]).map(|mut perl| perl.stderr(Stdio::null()).status());
    let found = found.is_some_and(|status| status.is_ok_and(|status| status.success()));
    if !found {
        eprintln!("skipped: Perl has no {module}");
    }
    found
}

#[test]
fn mail_serves_python_s_smtplib() {
    let scratch = Directory::new();
    let Some(mut mail) = with_tls(&scratch) else { return };
    let port = mail.address.unwrap().port().to_string();
    let script = r#"
import smtplib, ssl, sys
port, cert = int(sys.argv[1]), sys.argv[2]
text = "Subject: x\r\n\r\n.\r\n..\r\n" + "long line " * 50 + "\r\n" * 1000
for tls in (False, True):
    with smtplib.SMTP("localhost", port, timeout=30) as smtp:
        smtp.ehlo()
        assert smtp.has_extn("pipelining") and smtp.has_extn("8bitmime") and smtp.has_extn("starttls")
        assert int(smtp.esmtp_features["size"]) == 26214400
        if tls:
            smtp.starttls(context=ssl.create_default_context(cafile=cert))
            smtp.ehlo()
            assert not smtp.has_extn("starttls")
        assert smtp.sendmail("a@example.com", ["b@example.com", "c@example.com"], text) == {}
        smtp.mail("a@example.com"); smtp.rcpt("b@example.com")
        code, said = smtp.data(text)
        assert (code, said.decode()) == (250, f"2.0.0 thrown away: {len(text)} bytes for 1"), said
        assert smtp.verify("b")[0] == 252 and smtp.noop()[0] == 250 and smtp.rset()[0] == 250
        try:
            smtp.sendmail("a@example.com", ["b@example.com"], "x" * 30_000_000)
            assert False
        except smtplib.SMTPSenderRefused as refused:
            assert refused.smtp_code == 552, refused
print("done")
"#;
    let cert = scratch.path("cert.pem");
    if let Some(said) = said_by_python("smtplib", script, &[&port, &cert]) {
        assert_eq!(said, "done");
    }
    mail.stops_in_good_order();
}

#[test]
fn mail_serves_openssl_s_client() {
    let scratch = Directory::new();
    let Some(mut mail) = with_tls(&scratch) else { return };
    let server = mail.address.unwrap().to_string();
    let cert = scratch.path("cert.pem");
    for version in ["-tls1_2", "-tls1_3"] {
        let arguments = [
            "s_client",
            "-starttls",
            "smtp",
            "-connect",
            &server,
            "-CAfile",
            &cert,
            "-servername",
            "localhost",
            "-crlf",
            "-quiet",
            version,
        ];
        let Some(mut openssl) = tool("openssl", &arguments) else { return };
        let mut openssl = Program::spawn(openssl.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()));
        openssl.input.as_mut().unwrap().write_all(b"EHLO me\nNOOP\nquit\n").unwrap();
        openssl.output.until("250 2.0.0 done");
        openssl.output.until("221 2.0.0 goodbye");
        assert!(openssl.exit().success());
        assert!(openssl.log.lines().any(|line| line.contains("verify return:1")));
    }
    mail.stops_in_good_order();
}
