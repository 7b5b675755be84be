//! The SDK: a client of one user, with its connections, contacts, groups and messages, and its state in one SQLite file.
//!
//! Whatever is received is processed in one transaction per queue entry; whatever is sent is stored, complete, before it
//! is sent, and sent again until it is answered. So a process can stop anywhere and go on.

mod account;
mod account_changes;
mod aliases;
mod blocking;
mod chores;
mod commit;
mod connect;
mod connector;
mod core;
mod direct;
mod error;
mod event;
mod group;
mod join;
mod leaving;
mod listen;
mod members;
mod mls;
mod network;
mod outgoing;
mod packages;
mod push;
mod queue;
mod receive;
mod record;
mod register;
mod renewal;
mod restored;
mod resync;
mod send;
mod state;
mod strangers;
mod tokens;
mod trust;
mod view;

// They need a homeserver.
#[cfg(all(test, feature = "server"))]
mod tests;

use std::{path::Path, sync::Arc, time::Duration};

use self::{
    account::{Account, Stage},
    commit::Intent,
    core::Core,
    network::Network,
    register::Secrets,
    state::{Database, inbox, keys, meta},
    tokens::Tokens,
    trust::Trust,
};
pub use self::{
    aliases::AliasView,
    connector::{Connector, Isolation, QuicConnector},
    error::{ClientError, Local},
    event::Event,
    listen::Events,
    send::{MAX_CONTENT, SendReceipt},
    state::{
        aliases::AliasState,
        chats::{ChatKind, ChatState},
        queues::Queue,
    },
    view::{ChatView, ContactView, MemberView, Message, RequestView},
};
use crate::{
    base::{Clock, Domain, GroupId, SystemClock, Timestamp, UserId},
    wire::{Opaque, Text, content::Content},
};

/// How a client is registered.
#[derive(Clone, Debug)]
pub struct RegisterOptions {
    /// With which homeserver.
    pub domain: Domain,
    /// Where it is (host and port), if not where its name says.
    pub at: Option<String>,
    /// Where other homeservers are (host and port), if not where their names say.
    pub places: Vec<(Domain, String)>,
    /// Certification authorities to trust beside the public ones (PEM).
    pub ca: Option<Vec<u8>>,
    /// Display name.
    pub name: String,
    /// Password.
    pub password: String,
    /// Invitation code, where the homeserver asks for one.
    pub invitation: Option<String>,
}

/// How a client is run.
#[derive(Clone)]
pub struct Options {
    /// How long a request is tried before the caller is told that the homeserver cannot be reached.
    pub patience: Duration,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

impl Default for Options {
    fn default() -> Self {
        Self { patience: Duration::from_secs(45), clock: Arc::new(SystemClock) }
    }
}

/// A client. Clones are handles to the same; one process at a time can have the client of a home.
#[derive(Clone)]
pub struct Client(Arc<Core>);

impl Client {
    /// Registers a user, and keeps its state in `home`. A registration that was interrupted is completed.
    ///
    /// # Errors
    /// What the homeserver refused; [`Local::AlreadyRegistered`] for a home in use.
    pub async fn register(home: &Path, options: RegisterOptions) -> Result<Self, ClientError> {
        let ca = options.ca.as_deref();
        let mut connector = QuicConnector::new(options.domain.clone(), options.at.clone(), ca)?;
        for (domain, place) in &options.places {
            connector = connector.with_place(domain.clone(), place)?;
        }
        Self::register_over(home, options, Arc::new(connector), Options::default()).await
    }

    /// Like [`Self::register`], over connections from `connector`.
    ///
    /// # Errors
    /// As [`Self::register`].
    pub async fn register_over(
        home: &Path,
        registration: RegisterOptions,
        connector: Arc<dyn Connector>,
        options: Options,
    ) -> Result<Self, ClientError> {
        let RegisterOptions { domain, at, places, ca, name, password, invitation } = registration;
        register::check_name(&name)?;
        register::check_password(&password)?;
        let database = Database::open(home).await?;
        database
            .run(move |connection| {
                match Stage::load(connection)? {
                    Stage::Complete => {
                        let message = "a client is registered in this home already".to_owned();
                        return Err(ClientError::Local(Local::AlreadyRegistered, message));
                    }
                    Stage::Empty => meta::put(connection, "name", &Text(name))?,
                    Stage::Prepared | Stage::Certified => {
                        if meta::require::<Domain>(connection, "domain")? != domain {
                            let why = "a registration with another homeserver is not complete in this home";
                            return Err(ClientError::invalid(why));
                        }
                    }
                }
                meta::put(connection, "domain", &domain)?;
                meta::put(connection, "place", &Text(at.unwrap_or_default()))?;
                put_places(connection, places)?;
                meta::put(connection, "ca", &Opaque::from(ca.unwrap_or_default()))
            })
            .await?;
        Self::start(database, connector, options, Some(Secrets { password, invitation })).await
    }

    /// Opens the client in `home`.
    ///
    /// # Errors
    /// [`Local::NotRegistered`] if there is none, [`Local::Busy`] if another process has it.
    pub async fn open(home: &Path) -> Result<Self, ClientError> {
        let database = Self::open_database(home).await?;
        let connector = database
            .run(|connection| {
                let domain: Domain = meta::require(connection, "domain")?;
                let Text(place) = meta::require(connection, "place")?;
                let ca: Opaque = meta::require(connection, "ca")?;
                let ca = Some(ca.as_slice()).filter(|ca| !ca.is_empty());
                let own = Some(place).filter(|place| !place.is_empty());
                let connector = QuicConnector::new(domain, own, ca)?;
                let mut places = places(connection)?.into_iter();
                places.try_fold(connector, |connector, (domain, place)| connector.with_place(domain, &place))
            })
            .await?;
        Self::start(database, Arc::new(connector), Options::default(), None).await
    }

    /// Where the homeserver of a domain is (host and port), if not where its name says, from the next opening on; none takes
    /// that back.
    ///
    /// # Errors
    /// [`Local::NotRegistered`] if there is no client in `home`, [`Local::Busy`] if another process has it; [`Local::Invalid`]
    /// for what is no place.
    pub async fn set_place(home: &Path, domain: Domain, place: Option<String>) -> Result<(), ClientError> {
        if let Some(place) = &place {
            QuicConnector::new(domain.clone(), Some(place.clone()), None)?;
        }
        let database = Self::open_database(home).await?;
        database
            .run(move |connection| {
                if meta::require::<Domain>(connection, "domain")? == domain {
                    return meta::put(connection, "place", &Text(place.unwrap_or_default()));
                }
                let mut places = places(connection)?;
                places.retain(|(known, _)| *known != domain);
                places.extend(place.map(|place| (domain, place)));
                put_places(connection, places)
            })
            .await
    }

    /// Like [`Self::open`], over connections from `connector`.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn open_over(home: &Path, connector: Arc<dyn Connector>, options: Options) -> Result<Self, ClientError> {
        let database = Self::open_database(home).await?;
        Self::start(database, connector, options, None).await
    }

    /// Opens a state that must be there: a command with a wrong path leaves nothing behind.
    async fn open_database(home: &Path) -> Result<Database, ClientError> {
        let missing = || ClientError::Local(Local::NotRegistered, "no client is registered in this home".into());
        if !home.join("client.db").exists() {
            return Err(missing());
        }
        let database = Database::open(home).await?;
        match database.run(|connection| meta::get::<Domain>(connection, "domain")).await? {
            Some(_) => Ok(database),
            None => Err(missing()),
        }
    }

    async fn start(
        database: Database,
        connector: Arc<dyn Connector>,
        options: Options,
        secrets: Option<Secrets>,
    ) -> Result<Self, ClientError> {
        let Options { patience, clock } = options;
        let network = Network::new(connector, patience, Tokens::new(database.clone(), clock.clone()));
        let now = clock.now();
        let trust = database.run(move |connection| Trust::load(connection, clock)).await?;
        register::proceed(&database, &network, &trust, secrets).await?;
        let account = database
            .run(move |connection| {
                let provider = mls::Provider::new(connection);
                for reference in keys::forget_expired(connection, now.seconds())? {
                    mls::forget_key_package(&provider, &reference)?;
                }
                inbox::forget_old(connection, now)?;
                Account::load(connection)
            })
            .await?;
        let core = Arc::new(Core::new(database, network, account, trust));
        let resume = async {
            core.resume_renewal().await?;
            core.flush().await
        };
        match resume.await {
            // What cannot be sent now is sent with the next command.
            Ok(()) | Err(ClientError::Unreachable(_) | ClientError::UsedUp(_)) => Ok(Self(core)),
            Err(error) => Err(error),
        }
    }

    /// Closes all connections, so that homeservers need not wait for them. What goes on afterwards connects again.
    pub async fn close(&self) {
        self.0.network.close().await;
    }

    /// The user, and its display name.
    pub fn whoami(&self) -> (UserId, String) {
        let account = self.0.account();
        (account.client.user.clone(), account.name.clone())
    }

    /// Fetches and processes everything that waits in the queues, and sends everything that waits here.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`], after which what was not done is done next time.
    pub async fn sync(&self) -> Result<(), ClientError> {
        let core = &self.0;
        core.keep_credential().await?;
        core.flush().await?;
        core.settle_aliases().await?;
        for queue in core.queues().await? {
            core.fetch(queue).await?;
        }
        core.look_up_again().await?;
        core.do_chores().await
    }

    /// Listens to all queues and tells what happens. A later call takes over from an earlier one.
    pub fn events(&self) -> Events {
        self.0.events()
    }

    /// Offers a user to connect; returns the chat, which can be used when the user has accepted.
    ///
    /// # Errors
    /// `not_found` if there is no such user, [`Local::Invalid`] for oneself.
    pub async fn connect(&self, user: &UserId) -> Result<GroupId, ClientError> {
        self.0.connect(user).await
    }

    /// Offers whoever is behind an alias to connect; returns the chat, which can be used when the offer is accepted. Only
    /// then it is known who that is.
    ///
    /// # Errors
    /// `not_found` if there is no such alias, [`Local::Invalid`] for what is no alias or an own one.
    pub async fn connect_alias(&self, alias: &str, domain: &Domain) -> Result<GroupId, ClientError> {
        self.0.connect_alias(alias, domain).await
    }

    /// Accepts a request to connect; returns the chat.
    ///
    /// # Errors
    /// [`Local::NotFound`] if there is no such request; what the homeserver refused.
    pub async fn accept(&self, request: &str) -> Result<GroupId, ClientError> {
        self.0.accept(request).await
    }

    /// Declines a request to connect; whoever made it is told.
    ///
    /// # Errors
    /// [`Local::NotFound`] if there is no such request.
    pub async fn decline(&self, request: &str) -> Result<(), ClientError> {
        self.0.decline(request).await
    }

    /// Creates a group.
    ///
    /// # Errors
    /// What the homeserver refused.
    pub async fn create_group(&self, name: &str) -> Result<GroupId, ClientError> {
        self.0.create_group(name).await
    }

    /// Adds contacts to a group.
    ///
    /// # Errors
    /// [`Local::NotFound`] for a user who is no contact; what the homeserver refused.
    pub async fn invite(&self, chat: &GroupId, users: &[UserId]) -> Result<(), ClientError> {
        self.0.require_group(chat).await?;
        self.0.change(chat, Intent::Invite(users.to_vec())).await
    }

    /// Removes users from a group.
    ///
    /// # Errors
    /// [`Local::NotFound`] for a user who is no member; what the homeserver refused.
    pub async fn remove(&self, chat: &GroupId, users: &[UserId]) -> Result<(), ClientError> {
        self.0.require_members(chat, users).await?;
        self.0.change(chat, Intent::Remove(users.to_vec())).await
    }

    /// Leaves a group. Its members learn of it, and the next commit of any of them carries it out.
    ///
    /// # Errors
    /// `forbidden` for the last admin of others, who names another first; what else the homeserver refused.
    pub async fn leave(&self, chat: &GroupId) -> Result<(), ClientError> {
        self.0.require_group(chat).await?;
        self.0.leave(chat).await
    }

    /// Changes what a group is called.
    ///
    /// # Errors
    /// [`Local::Invalid`] for what is no name, `forbidden` for a member who is no admin.
    pub async fn rename(&self, chat: &GroupId, name: &str) -> Result<(), ClientError> {
        self.0.require_group(chat).await?;
        group::check_group_name(name)?;
        self.0.change(chat, Intent::Rename(name.to_owned())).await
    }

    /// Makes members admins.
    ///
    /// # Errors
    /// [`Local::NotFound`] for a user who is no member, `forbidden` for a member who is no admin, or has not been heard of
    /// yet.
    pub async fn add_admins(&self, chat: &GroupId, users: &[UserId]) -> Result<(), ClientError> {
        self.0.require_members(chat, users).await?;
        self.0.change(chat, Intent::Appoint(users.to_vec(), Vec::new())).await
    }

    /// Makes admins ordinary members.
    ///
    /// # Errors
    /// As [`Self::add_admins`]; `forbidden` if no admin would be left.
    pub async fn remove_admins(&self, chat: &GroupId, users: &[UserId]) -> Result<(), ClientError> {
        self.0.require_members(chat, users).await?;
        self.0.change(chat, Intent::Appoint(Vec::new(), users.to_vec())).await
    }

    /// Deletes a group for everybody.
    ///
    /// # Errors
    /// What the homeserver refused.
    pub async fn delete_group(&self, chat: &GroupId) -> Result<(), ClientError> {
        self.0.change(chat, Intent::Delete).await
    }

    /// Sends a message.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`] if the message waits here; what the homeserver refused.
    pub async fn send(&self, chat: &GroupId, content: Content) -> Result<SendReceipt, ClientError> {
        if let Content::Friendship(_) = content {
            return Err(ClientError::invalid("it is not for people"));
        }
        self.0.send(chat, content).await
    }

    /// Messages were read: they are not shown again.
    ///
    /// # Errors
    /// [`Local::Storage`].
    pub async fn mark_read(&self, numbers: &[i64]) -> Result<(), ClientError> {
        let numbers = numbers.to_vec();
        self.0.database.run(move |connection| inbox::mark_read(connection, &numbers)).await
    }

    /// How many tokens are left, which pay for requests. More are obtained when they are needed.
    ///
    /// # Errors
    /// [`Local::Storage`].
    pub async fn tokens(&self) -> Result<u32, ClientError> {
        self.0.network.tokens().count(self.0.domain()).await
    }

    /// What was received and could not be used, the oldest first.
    ///
    /// # Errors
    /// [`Local::Storage`].
    pub async fn problems(&self) -> Result<Vec<(Timestamp, String)>, ClientError> {
        self.0.database.run(inbox::problems).await
    }
}

/// Where other homeservers are, as the user has said.
fn places(connection: &rusqlite::Connection) -> Result<Vec<(Domain, String)>, ClientError> {
    let stored = meta::get::<Vec<Text>>(connection, "places")?.unwrap_or_default();
    let place = |Text(text): Text| {
        let (domain, place) = text.split_once('=')?;
        Some((domain.parse().ok()?, place.to_owned()))
    };
    stored.into_iter().map(|text| place(text).ok_or_else(|| ClientError::storage("a place is none"))).collect()
}

fn put_places(connection: &rusqlite::Connection, places: Vec<(Domain, String)>) -> Result<(), ClientError> {
    let places: Vec<_> = places.into_iter().map(|(domain, place)| Text(format!("{domain}={place}"))).collect();
    meta::put(connection, "places", &places)
}
