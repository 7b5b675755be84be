//! A network of network namespaces, where the operating system has them and lets the test make them: each homeserver is
//! a host of its own, joined to the others and to the test by a bridge that stands in one more namespace, so that no
//! firewall of this machine sees what passes between homeservers. The way between any two hosts can be cut.

use std::{
    io::Write as _,
    net::{IpAddr, Ipv4Addr},
    process::{self, Command, Stdio},
};

use super::Site;

/// What makes the ways slow and lossy, best first: what it is, and how `tc` is told.
const HARDSHIPS: [(&str, &str); 2] = [
    ("10 ms of delay and 2 % of loss in each direction (netem)", "netem delay 10ms 3ms loss 2%"),
    ("narrow ways whose queues overflow (tbf)", "tbf rate 4mbit burst 3kb limit 6kb"),
];

/// Hosts and the bridge between them. All of it goes when it is dropped; the names are this process's own.
pub struct Network {
    hosts: u8,
}

impl Network {
    /// Makes a network of so many hosts, at most five, or says why there can be none.
    pub fn new(hosts: u8) -> Result<Self, String> {
        assert!(hosts <= 5, "a subnet has six addresses, and the test has one of them");
        // There before its parts: what was made until something fails goes as well.
        let network = Self { hosts };
        let (bridge, test) = (bridge(), link());
        ip(&format!("netns add {bridge}"))?;
        ip(&format!("-n {bridge} link add name bridge type bridge"))?;
        ip(&format!("-n {bridge} link set bridge up"))?;
        ip(&format!("link add {test} type veth peer name test netns {bridge}"))?;
        ip(&format!("-n {bridge} link set test master bridge up"))?;
        ip(&format!("address add {}/29 dev {test}", address(0)))?;
        ip(&format!("link set {test} up"))?;
        for host in 0..hosts {
            let (namespace, port) = (namespace(host), port(host));
            ip(&format!("netns add {namespace}"))?;
            ip(&format!("-n {namespace} link set lo up"))?;
            ip(&format!("-n {namespace} link add eth0 type veth peer name {port} netns {bridge}"))?;
            ip(&format!("-n {bridge} link set {port} master bridge up"))?;
            ip(&format!("-n {namespace} address add {}/29 dev eth0", address(host + 1)))?;
            ip(&format!("-n {namespace} link set eth0 up"))?;
            ip(&format!("netns exec {namespace} true"))?;
        }
        Ok(network)
    }

    /// Where homeservers run: each listens on the address that its host has in this network. Nobody else reaches it, since
    /// only this machine has a link to the bridge.
    pub fn sites(&self) -> Vec<Site> {
        let site = |host| Site {
            address: address(host + 1),
            through: ["ip", "netns", "exec", &namespace(host)].map(str::to_owned).to_vec(),
        };
        (0..self.hosts).map(site).collect()
    }

    /// Makes every way slow and lossy, and says how, or why that cannot be.
    pub fn deteriorate(&self) -> Result<&'static str, String> {
        let bridge = bridge();
        let mut refusals = Vec::new();
        for (what, how) in HARDSHIPS {
            let set = |port| run("tc", &format!("-n {bridge} qdisc replace dev {port} root {how}")).map(|_| ());
            match (0..self.hosts).map(port).chain(["test".to_owned()]).try_for_each(set) {
                Ok(()) => return Ok(what),
                Err(refusal) => refusals.push(refusal),
            }
        }
        Err(refusals.join("; "))
    }

    /// Packets that were lost on their ways, but for those that were cut.
    pub fn lost(&self) -> u64 {
        let said = run("tc", &format!("-n {} -s qdisc show", bridge())).unwrap();
        // One line of each queue: `Sent 5 bytes 1 pkt (dropped 0, overlimits 0 requeues 0)`
        let dropped = said.split("(dropped ").skip(1).filter_map(|rest| rest.split(',').next());
        dropped.map(|number| number.parse::<u64>().unwrap()).sum()
    }

    /// From now on nothing reaches a host and nothing leaves it.
    pub fn cut_off(&self, host: usize) {
        self.set(host, "down");
    }

    /// From now on nothing passes between two hosts; the test reaches both.
    pub fn cut_between(&self, one: usize, other: usize) {
        // Ports that are isolated exchange nothing with each other, and everything with those that are not.
        for host in [one, other] {
            self.set(host, "type bridge_slave isolated on");
        }
    }

    /// From now on everything passes.
    pub fn heal(&self) {
        for host in 0..usize::from(self.hosts) {
            self.set(host, "type bridge_slave isolated off");
            self.set(host, "up");
        }
    }

    /// Deletes it, and holds that nothing of it is left.
    pub fn delete(self) {
        drop(self);
        let namespaces = ip("netns list").unwrap();
        assert!(!namespaces.contains(&format!("{}-", link())), "{namespaces}");
        ip(&format!("link show {}", link())).expect_err("the link is deleted");
    }

    fn set(&self, host: usize, what: &str) {
        let port = port(u8::try_from(host).unwrap());
        ip(&format!("-n {} link set {port} {what}", bridge())).unwrap();
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // What a namespace holds goes with it; the end of the link that is outside goes with the other end, but not at
        // once. What was never made cannot be deleted, and need not.
        let _ = ip(&format!("link delete {}", link()));
        for namespace in (0..self.hosts).map(namespace).chain([bridge()]) {
            let _ = ip(&format!("netns delete {namespace}"));
        }
    }
}

/// Prints a line that is seen when the test passes, too: which part of a test is left out, and why.
pub fn skipped(what: &str, why: &str) {
    // The macros that print would keep it back.
    let _ = std::io::stderr().write_all(format!("SKIPPED: {what}: {why}\n").as_bytes());
}

/// What the names of this process begin with, which is the name of its link to the bridge.
fn link() -> String {
    // The name of a link has 15 characters at most.
    format!("bennu{}", process::id())
}

fn bridge() -> String {
    format!("{}-bridge", link())
}

fn namespace(host: u8) -> String {
    format!("{}-{host}", link())
}

/// The end of a host's link at the bridge.
fn port(host: u8) -> String {
    format!("host{host}")
}

/// The address of a number in this process's subnet of eight, somewhere in 10.64.0.0/10.
fn address(number: u8) -> IpAddr {
    let subnet = process::id() % (1 << 19);
    Ipv4Addr::from_bits(u32::from_be_bytes([10, 64, 0, 0]) + 8 * subnet + 1 + u32::from(number)).into()
}

fn ip(arguments: &str) -> Result<String, String> {
    run("ip", arguments)
}

/// Runs a command to its end: what it said, or why it failed.
fn run(program: &str, arguments: &str) -> Result<String, String> {
    let command = format!("{program} {arguments}");
    let ended = Command::new(program).args(arguments.split(' ')).stdin(Stdio::null()).output();
    let ended = ended.map_err(|error| format!("{program} cannot be run: {error}"))?;
    if ended.status.success() {
        return Ok(String::from_utf8_lossy(&ended.stdout).into());
    }
    let said = String::from_utf8_lossy(&ended.stderr);
    Err(format!("{command}: {}", said.lines().next().unwrap_or("failed")))
}
