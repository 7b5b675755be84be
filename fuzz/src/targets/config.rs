//! The configuration file: any text is a configuration or refused with a reason, and means the same every time.

use std::path::Path;

use bennu::node::Config;

/// Any text as a configuration.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let parse = || Config::parse(text, Path::new("/etc/bennu"));
    match (parse(), parse()) {
        (Ok(one), Ok(other)) => assert_eq!(format!("{one:?}"), format!("{other:?}")),
        (Err(one), Err(other)) => {
            assert!(!one.to_string().is_empty() && one.to_string() == other.to_string());
        }
        _ => panic!("it depends"),
    }
}

/// A configuration with all tables, and each table with a setting that is wrong.
pub fn seeds() -> Vec<Vec<u8>> {
    const HEAD: &str = "domain = \"a.test\"\nlisten = \"127.0.0.1:9420\"\ndata = \"data\"\nlog = \"info\"\n\
                        [tls]\ncertificate = \"c.pem\"\nkey = \"k.pem\"\nauthority = \"a.pem\"\n";
    let tables = [
        "[limits]\nmax_streams = 28\nidle_timeout = 60\nqueue_entries = 1000\nqueue_key_update_hours = 24\n",
        "[registration]\npolicy = \"invitation\"\n",
        "[tokens]\nrequired = true\nallowance = 1000\ncredit_per_token = 32\n[tokens.prices]\nQsCreateUser = 8\n",
        "[queues]\ninactive_days = 90\n",
        "[groups]\nunused_months = 12\ninactive_days = 90\n",
        "[push]\nenabled = false\nmin_interval = 10\n",
        "[rates]\nregistrations = 20\n",
        "[federation]\npolicy = \"allowlist\"\nretention_days = 30\n[federation.peers]\n\"b.test\" = \"192.0.2.1:9420\"\n",
    ];
    let all = format!("{HEAD}{}", tables.concat());
    let wrong = tables.iter().map(|table| format!("{HEAD}{table}colour = \"blue\"\n"));
    wrong.chain([all, HEAD.to_owned(), String::new()]).map(String::into_bytes).collect()
}
