//! A name server on loopback that says what a test wants, and counts what it is asked.

use std::{
    net::{IpAddr, SocketAddr},
    str::FromStr,
    sync::{Arc, Mutex},
};

use hickory_resolver::proto::{
    op::{Message, OpCode, ResponseCode},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{CNAME, SOA, SRV},
    },
};
use tokio::net::UdpSocket;

/// How it behaves.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// As it should, with aliases by themselves.
    Answers,
    /// As it should, with aliases and what they lead to.
    FollowsAliases,
    /// It says nothing.
    Silent,
    /// It sends what is no DNS, and then DNS that answers something else.
    Garbage,
    /// It says that it could not find out.
    Fails,
    /// It says that more is to be had over TCP, where nobody is.
    Truncates,
}

/// A running name server.
pub struct NameServer {
    pub address: SocketAddr,
    state: Arc<State>,
}

struct State {
    manner: Mutex<Manner>,
    records: Mutex<Vec<Record>>,
    asked: Mutex<Vec<(Name, RecordType)>>,
}

/// How long it says that nothing is there.
pub const NEGATIVE_TTL: u32 = 30;

fn name(text: &str) -> Name {
    Name::from_str(text).unwrap()
}

impl NameServer {
    pub async fn start(manner: Manner) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let manner = Mutex::new(manner);
        let state = Arc::new(State { manner, records: Mutex::default(), asked: Mutex::default() });
        tokio::spawn(serve(socket, state.clone()));
        Self { address, state }
    }

    fn record(&self, owner: &str, ttl: u32, data: RData) -> &Self {
        self.state.records.lock().unwrap().push(Record::from_rdata(name(owner), ttl, data));
        self
    }

    pub fn srv(&self, domain: &str, ttl: u32, of: (u16, u16, u16, &str)) -> &Self {
        let (priority, weight, port, target) = of;
        let data = RData::SRV(SRV::new(priority, weight, port, name(target)));
        self.record(&format!("_bennu._udp.{domain}."), ttl, data)
    }

    pub fn address(&self, host: &str, ttl: u32, address: &str) -> &Self {
        self.record(host, ttl, RData::from(IpAddr::from_str(address).unwrap()))
    }

    pub fn alias(&self, host: &str, ttl: u32, target: &str) -> &Self {
        self.record(host, ttl, RData::CNAME(CNAME(name(target))))
    }

    pub fn behave(&self, manner: Manner) {
        *self.state.manner.lock().unwrap() = manner;
    }

    /// How often it was asked for records of a type.
    pub fn asked(&self, of: RecordType) -> usize {
        self.state.asked.lock().unwrap().iter().filter(|(_, asked)| *asked == of).count()
    }
}

async fn serve(socket: UdpSocket, state: Arc<State>) {
    let mut buffer = [0; 4_096];
    while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
        let query = Message::from_vec(&buffer[..length]).unwrap();
        for reply in state.replies(&query) {
            socket.send_to(&reply, from).await.unwrap();
        }
    }
}

impl State {
    fn replies(&self, query: &Message) -> Vec<Vec<u8>> {
        let asked = query.queries[0].clone();
        self.asked.lock().unwrap().push((asked.name().clone(), asked.query_type()));
        let mut reply = Message::response(query.id, OpCode::Query);
        reply.metadata.recursion_available = true;
        reply.add_query(asked.clone());
        let records = self.records.lock().unwrap();
        let fits = |record: &&Record| {
            record.name == *asked.name() && [asked.query_type(), RecordType::CNAME].contains(&record.record_type())
        };
        reply.add_answers(records.iter().filter(fits).cloned());
        if reply.answers.is_empty() {
            let exists = records.iter().any(|record| record.name == *asked.name());
            reply.metadata.response_code = if exists { ResponseCode::NoError } else { ResponseCode::NXDomain };
            let soa = SOA::new(name("ns.test."), name("admin.test."), 1, 1, 1, 1, NEGATIVE_TTL);
            reply.add_authority(Record::from_rdata(name("test."), 3_600, RData::SOA(soa)));
        }
        match *self.manner.lock().unwrap() {
            Manner::Answers => vec![reply.to_vec().unwrap()],
            Manner::FollowsAliases => {
                let alias = reply.answers.iter().find_map(|record| match &record.data {
                    RData::CNAME(CNAME(target)) => Some(target.clone()),
                    _ => None,
                });
                let wanted = |record: &&Record| {
                    Some(&record.name) == alias.as_ref() && record.record_type() == asked.query_type()
                };
                reply.add_answers(records.iter().filter(wanted).cloned());
                vec![reply.to_vec().unwrap()]
            }
            Manner::Silent => Vec::new(),
            Manner::Garbage => {
                let mut other = reply.clone();
                other.metadata.id = query.id.wrapping_add(1);
                let truncated = reply.to_vec().unwrap()[..13].to_vec();
                vec![vec![0xff; 3], vec![0xff; 4_000], truncated, other.to_vec().unwrap()]
            }
            Manner::Fails => {
                let mut failure = Message::response(query.id, OpCode::Query);
                failure.add_query(asked);
                failure.metadata.response_code = ResponseCode::ServFail;
                vec![failure.to_vec().unwrap()]
            }
            Manner::Truncates => {
                let mut short = reply.clone();
                short.answers.clear();
                short.metadata.truncation = true;
                vec![short.to_vec().unwrap()]
            }
        }
    }
}
