//! A client that answers: it accepts whoever wants to connect, and says again what it is told. `docs/sdk.md` explains it.

use std::{env, fs, path::PathBuf};

use bennu::{
    client::{Client, ClientError, Event, RegisterOptions},
    wire::content::Content,
};

/// What it is started with: a directory for its state, the home domain, where that is, and whom to trust.
struct Arguments {
    home: PathBuf,
    domain: String,
    place: Option<String>,
    authority: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut words = env::args().skip(1);
    let (Some(home), Some(domain)) = (words.next(), words.next()) else {
        return Err("usage: echo HOME DOMAIN [HOST:PORT [AUTHORITY.pem]]".into());
    };
    let (place, authority) = (words.next(), words.next().map(PathBuf::from));
    let client = open(Arguments { home: home.into(), domain, place, authority }).await?;
    println!("I am {}", client.whoami().0);
    tokio::select! {
        result = answer(&client) => result?,
        _ = tokio::signal::ctrl_c() => {}
    }
    client.close().await;
    Ok(())
}

/// Opens the client, and registers it the first time.
async fn open(arguments: Arguments) -> Result<Client, Box<dyn std::error::Error>> {
    let Arguments { home, domain, place, authority } = arguments;
    if home.join("client.db").exists() {
        return Ok(Client::open(&home).await?);
    }
    let options = RegisterOptions {
        domain: domain.parse()?,
        at: place,
        places: Vec::new(),
        ca: authority.map(fs::read).transpose()?,
        name: "Echo".into(),
        password: env::var("BENNU_PASSWORD")?,
        invitation: env::var("BENNU_INVITATION").ok(),
    };
    Ok(Client::register(&home, options).await?)
}

/// Answers until another process takes the client over.
async fn answer(client: &Client) -> Result<(), ClientError> {
    // Listened to first, so that nothing is missed between what waited and what comes.
    let mut events = client.events();
    client.sync().await?;
    for request in client.requests().await? {
        client.accept(&request.id).await?;
    }
    answer_unread(client).await?;
    while let Some(event) = events.next().await {
        match event {
            Event::Request { id, .. } => drop(client.accept(&id).await?),
            Event::Message { .. } => answer_unread(client).await?,
            Event::Problem(what) => eprintln!("not understood: {what}"),
            _ => {}
        }
    }
    Ok(())
}

/// Says what was said. A message is marked as read when its answer is stored, which is sent whatever happens to this process; one that is
/// killed in between says it twice.
async fn answer_unread(client: &Client) -> Result<(), ClientError> {
    for message in client.unread(100).await? {
        if let Content::Text(text) = message.content {
            match client.send(&message.chat, Content::Text(text)).await {
                // It waits here, and goes out when the homeserver can be reached.
                Ok(_) | Err(ClientError::Unreachable(_)) => {}
                Err(error) => eprintln!("no answer to {}: {error}", message.from),
            }
        }
        client.mark_read(&[message.id]).await?;
    }
    Ok(())
}
