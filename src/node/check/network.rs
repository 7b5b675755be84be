//! Whether clients and other homeservers find this one: DNS, the UDP port, and the buffers behind it.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket},
    time::Duration,
};

use super::Finding;
use crate::{
    base::address::is_public,
    node::{Config, renewal::Files},
    transport::{Context, DialError, PrivateAddresses, Route, Routes, Settings},
};

/// How long a homeserver may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);

pub async fn look(config: &Config, tell: &mut (dyn FnMut(Finding) + Send)) {
    let running = here(config).await;
    let is_running = matches!(running, Here::Running);
    tell(running.finding(config));
    config.watch.and_then(|address| watch(address, is_running)).into_iter().for_each(&mut *tell);
    let routes = Routes::new().private_addresses(PrivateAddresses::Allowed);
    let route = match routes.find(&config.domain).await {
        Ok(route) => route,
        Err(error) => return tell(unknown(config, &error).unless_development(config)),
    };
    tell(known(config, &route).unless_development(config));
    if is_running {
        tell(elsewhere(config, &route).await.unless_development(config));
    }
}

/// What is at the address where the homeserver listens.
enum Here {
    Running,
    Free,
    Taken(std::io::Error),
    Silent(DialError),
}

impl Here {
    fn finding(self, config: &Config) -> Finding {
        const SUBJECT: &str = "UDP port";
        let listen = config.listen;
        match self {
            Self::Running => Finding::ok(SUBJECT, format!("the homeserver answers on {listen}")),
            Self::Free => Finding::ok(SUBJECT, format!("{listen} can be had; the homeserver does not run")),
            Self::Taken(error) if error.kind() == std::io::ErrorKind::AddrInUse => Finding::failure(
                SUBJECT,
                format!("another program has {listen}, and it does not answer as this homeserver"),
                format!("find it with `ss -ulpn 'sport = :{}'` and stop it, or change `listen`", listen.port()),
            ),
            Self::Taken(error) => Finding::failure(
                SUBJECT,
                format!("{listen} is not to be had: {error}"),
                "`listen` must be an address of this machine; ports below 1024 need a privilege",
            ),
            Self::Silent(error) => Finding::failure(
                SUBJECT,
                format!("a homeserver runs, but does not answer on {listen}: {error}"),
                "restart it if its settings were changed; let UDP through on the loopback interface",
            ),
        }
    }
}

/// What is the matter with the address where figures are shown.
fn watch(address: SocketAddr, is_running: bool) -> Option<Finding> {
    const SUBJECT: &str = "figures";
    if !is_running && let Err(error) = TcpListener::bind(address) {
        let found = format!("TCP address {address} is not to be had: {error}");
        return Some(Finding::failure(
            SUBJECT,
            found,
            "`[watch] listen` must be an address of this machine that nobody else has",
        ));
    }
    (!address.ip().is_loopback()).then(|| {
        let found = format!("whoever reaches {address} can read them, without a password");
        Finding::warning(
            SUBJECT,
            found,
            "let `[watch] listen` be 127.0.0.1, or let only those through who may read them",
        )
    })
}

/// Looks at the address itself, from this machine.
async fn here(config: &Config) -> Here {
    let mut address = config.listen;
    if address.ip().is_unspecified() {
        let loopback: IpAddr = if address.is_ipv6() { Ipv6Addr::LOCALHOST.into() } else { Ipv4Addr::LOCALHOST.into() };
        address.set_ip(loopback);
    }
    if address.port() == 0 {
        return Here::Free;
    }
    match dial(config, &Route::from(address)).await {
        Ok(()) => Here::Running,
        Err(error) => match UdpSocket::bind(config.listen) {
            Ok(_) => Here::Free,
            Err(taken) if std::os::unix::net::UnixStream::connect(&config.admin_socket).is_err() => Here::Taken(taken),
            Err(_) => Here::Silent(error),
        },
    }
}

/// Connects as a client does, and hangs up.
async fn dial(config: &Config, route: &Route) -> Result<(), DialError> {
    let failed = |error: &dyn std::fmt::Display| DialError::Socket(error.to_string());
    let roots = Files::of(config).load().map_err(|error| failed(&error))?.roots;
    let context = Context::new(roots, Settings { handshake_deadline: PATIENCE, ..Settings::default() })?;
    let connected = context.connect(&config.domain, route).await;
    context.close().await;
    connected.map(drop)
}

fn unknown(config: &Config, error: &DialError) -> Finding {
    let Config { domain, listen, .. } = config;
    let advice = format!(
        "add the record `_bennu._udp.{domain}. SRV 0 0 {} HOST.` and an A or AAAA record for HOST; until then clients need \
         `--at ADDRESS`, and other homeservers an entry in [federation.peers]",
        listen.port()
    );
    match error {
        DialError::Unavailable(_) => {
            Finding::failure("DNS", format!("the SRV record of {domain} says that there is no homeserver"), advice)
        }
        DialError::Lookup { .. } => {
            Finding::failure("DNS", error.to_string(), "see whether this machine can ask its name server at all")
        }
        _ => Finding::failure("DNS", format!("nobody can find {domain}: {error}"), advice),
    }
}

fn known(config: &Config, Route { addresses }: &Route) -> Finding {
    let list = addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let found = format!("{} is found at {list}", config.domain);
    let ports_differ = addresses.iter().any(|address| address.port() != config.listen.port());
    if addresses.iter().all(|address| !is_public(address.ip())) {
        let advice = "other homeservers refuse such an address unless they are told otherwise: add a public one";
        return Finding::warning("DNS", format!("{found}, which is not on the public internet"), advice);
    }
    if ports_differ && config.listen.port() != 0 {
        let advice =
            format!("have UDP led from there to port {}, or name that port in the SRV record", config.listen.port());
        return Finding::warning("DNS", format!("{found}, and the homeserver listens on {}", config.listen), advice);
    }
    Finding::ok("DNS", found)
}

/// Whether the running homeserver answers where others look for it.
async fn elsewhere(config: &Config, route: &Route) -> Finding {
    const SUBJECT: &str = "reached from outside";
    let Route { addresses } = route;
    let mut silent: Vec<SocketAddr> = Vec::new();
    for address in addresses {
        if dial(config, &Route::from(*address)).await.is_err() {
            silent.push(*address);
        }
    }
    if silent.is_empty() {
        return Finding::ok(SUBJECT, "the homeserver answers at each of these addresses, asked from this machine");
    }
    let list = silent.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let found = format!("the homeserver does not answer at {list}, asked from this machine");
    let advice = "let UDP through in the firewall and have it led on by the router, and try from outside as well: \
                  some routers do not lead back what comes from inside";
    if silent.len() < addresses.len() {
        return Finding::warning(SUBJECT, found, advice);
    }
    Finding::failure(SUBJECT, found, advice)
}
