//! Registration, in stages that are stored before they are acted on: a process killed anywhere goes on where it was, and
//! the AS answers the repeated request with the same credential.

use bytes::Bytes;
use rusqlite::Connection;

use super::{
    account::{Account, Keys, Stage},
    connector::Isolation,
    error::{ClientError, Local},
    network::{Network, Sender},
    packages, record,
    state::{
        Database, blocking, meta, outbox,
        queues::{self, Queue},
    },
    trust::{Doubt, Trust},
};
use crate::{
    base::{ClientId, Domain, Secret, Timestamp, UserId},
    crypto::{Rng, aead, credential::request_client, opaque::Registration, random, system_rng},
    wire::{
        Decode, Encode, Method, Opaque, SenderId, Text,
        authentication::{FinishRegistration, InitRegistration, Registered},
        content::UserProfile,
        credential::{AsIntermediateCredential, Validity},
        label::KeyLabel,
        method::call,
        padding::{MESSAGE_FLOOR, pad_value},
        queuing::{GetQueuingKeys, PublishKeyPackages},
    },
};

/// How long a client credential is asked for, in seconds.
const CREDENTIAL_LIFE: u64 = 365 * 86_400;

/// Longest display name, in bytes.
const MAX_NAME: usize = 256;

/// What a registration begins with, and what is not kept.
pub struct Secrets {
    /// The password.
    pub password: String,
    /// Invitation code, where the homeserver asks for one.
    pub invitation: Option<String>,
}

/// Goes on with a registration from wherever it stands. `secrets` are needed for the first stage only.
pub async fn proceed(
    database: &Database,
    network: &Network,
    trust: &Trust,
    secrets: Option<Secrets>,
) -> Result<(), ClientError> {
    let domain: Domain = database.run(|connection| meta::require(connection, "domain")).await?;
    if database.run(Stage::load).await? == Stage::Empty {
        let Some(secrets) = secrets else {
            let message = "no client is registered in this home".to_owned();
            return Err(ClientError::Local(Local::NotRegistered, message));
        };
        prepare(database, network, trust, &domain, secrets).await?;
    }
    if database.run(Stage::load).await? == Stage::Prepared {
        certify(database, network, trust, &domain).await?;
    }
    if database.run(Stage::load).await? == Stage::Certified {
        join_queuing(database, network, trust, &domain).await?;
    }
    Ok(())
}

/// OPAQUE and the request that makes the user, stored before it is sent.
async fn prepare(
    database: &Database,
    network: &Network,
    trust: &Trust,
    domain: &Domain,
    Secrets { password, invitation }: Secrets,
) -> Result<(), ClientError> {
    let invitation = invitation.map(|code| Opaque::from(code.into_bytes()));
    trust.fetch(domain, network, database).await?;
    let client = ClientId {
        user: UserId {
            uuid: *uuid::Builder::from_random_bytes(random(&mut system_rng())).as_uuid().as_bytes(),
            domain: domain.clone(),
        },
        client: random(&mut system_rng()),
    };
    let (registration, request) = Registration::start(client.user.clone(), &password, &mut system_rng())?;
    let init = InitRegistration { user: client.user.clone(), request, invitation: invitation.clone() };
    let answer = network.call::<call::AsInitRegistration>(domain, Isolation::Identity, Sender::Nobody, &init).await?;
    let record =
        blocking(move || Ok(registration.finish(&password, answer.response.as_slice(), &mut system_rng())?)).await?;
    let authority = trust.authority(domain).map_err(doubted)?;
    let now = trust.now();
    database
        .run(move |connection| {
            let signer = authority.preferred().ok_or_else(|| ClientError::untrusted("the AS has no credential"))?;
            let finish = FinishRegistration { invitation, ..finish_request(connection, client, signer, record, now)? };
            meta::put(connection, "finish", &Opaque::from(finish.to_vec()))?;
            Stage::Prepared.store(connection)
        })
        .await
}

/// How long a client credential is asked for: as long as the signer allows, at most a year.
pub fn validity(signer: &AsIntermediateCredential, now: Timestamp) -> Validity {
    let within = &signer.request.payload.validity;
    Validity {
        not_before: now.seconds().saturating_sub(packages::CLOCK_SKEW).max(within.not_before),
        not_after: now.seconds().saturating_add(CREDENTIAL_LIFE).min(within.not_after),
    }
}

fn finish_request(
    connection: &Connection,
    client: ClientId,
    signer: &AsIntermediateCredential,
    record: Opaque,
    now: Timestamp,
) -> Result<FinishRegistration, ClientError> {
    let mut rng = system_rng();
    let keys = Keys::create(connection, &mut rng)?;
    for queue in [Queue::Direct, Queue::Client] {
        queues::new_key(connection, queue, &mut rng)?;
    }
    let validity = validity(signer, now);
    let name: Text = meta::require(connection, "name")?;
    let profile = seal_profile(name, &client.user, &keys.friendship.user_profile_key, &mut rng);
    meta::put(connection, "client id", &client)?;
    Ok(FinishRegistration {
        packages: packages::connection_packages(connection, &client, &keys.identity, now, &mut rng)?,
        request: request_client(client, validity, signer, &keys.identity, None),
        record,
        queue_key: queues::current_key(connection, Queue::Direct)?,
        profile,
        invitation: None,
    })
}

/// A user's profile, as only those can open it who have its key.
pub fn seal_profile(name: Text, user: &UserId, key: &Secret, rng: &mut dyn Rng) -> Opaque {
    let padded = pad_value(&UserProfile { name, picture: None }, MESSAGE_FLOOR);
    aead::seal(key, KeyLabel::UserProfile, &user.to_vec(), &padded, rng).into()
}

async fn certify(database: &Database, network: &Network, trust: &Trust, domain: &Domain) -> Result<(), ClientError> {
    let (finish, client, keys) = database
        .run(|connection| {
            let finish: Opaque = meta::require(connection, "finish")?;
            let client: ClientId = meta::require(connection, "client id")?;
            Ok::<_, ClientError>((finish, client, Keys::load(connection)?))
        })
        .await?;
    let sender = Sender::Signed(SenderId::AsClient(client.clone()), &keys.identity);
    let body: Bytes = finish.0.clone();
    let answer = network.send(domain, Isolation::Identity, Method::AsFinishRegistration, sender, body).await;
    if let Err(error @ ClientError::Refused(_)) = &answer
        && !error.is_busy()
    {
        // The user does not come about: registration can be tried again from the start.
        database
            .run(|connection| {
                meta::remove(connection, "stage")?;
                connection.execute("DELETE FROM connection_keys", []).map(drop).map_err(ClientError::from)
            })
            .await?;
    }
    let registered = Registered::from_bytes(answer?)?;
    let asked = FinishRegistration::from_bytes(finish.0)?.request;
    if registered.credential.request != asked {
        return Err(ClientError::untrusted("the AS certified something else than was asked for"));
    }
    if trust.client(&registered.credential).is_err() {
        trust.fetch(domain, network, database).await?;
        trust.client(&registered.credential).map_err(doubted)?;
    }
    database
        .run(move |connection| {
            meta::put(connection, "credential", &registered.credential)?;
            let cursor = queues::Cursor::start(registered.incarnation, 0);
            queues::store(connection, Queue::Direct, &cursor)?;
            meta::remove(connection, "finish")?;
            Stage::Certified.store(connection)
        })
        .await
}

/// The pseudonym at the QS. A repeat, after a reply that got lost, is answered with the same.
async fn join_queuing(
    database: &Database,
    network: &Network,
    trust: &Trust,
    domain: &Domain,
) -> Result<(), ClientError> {
    let get = GetQueuingKeys {};
    let queuing = network.call::<call::QsGetKeys>(domain, Isolation::Anonymous, Sender::Nobody, &get).await?;
    let queuing_key = queuing.hpke_keys.into_iter().next();
    let queuing_key = queuing_key.ok_or_else(|| ClientError::untrusted("the QS has no key"))?;
    let prepare = |connection: &Connection| {
        let keys = Keys::load(connection)?;
        let client = record::queuing_client(connection, &keys.queuing_client, None)?;
        Ok::<_, ClientError>(record::creation(&keys, client))
    };
    let request = database.run(prepare).await?;
    let created = network.call::<call::QsCreateUser>(domain, Isolation::Pseudonym, Sender::Nobody, &request).await?;
    let (now, domain) = (trust.now(), domain.clone());
    database
        .run(move |connection| {
            record::created(connection, &created, now)?;
            record::seal_to(connection, &queuing_key, now.day())?;
            Stage::Complete.store(connection)?;
            let account = Account::load(connection)?;
            publish_key_packages(connection, &account, &queuing_key, &domain, now)
        })
        .await
}

/// When KeyPackages were last made.
const KEY_PACKAGES_MADE: &str = "key packages made";

/// When KeyPackages were last made.
pub fn key_packages_made(connection: &Connection) -> Result<Timestamp, ClientError> {
    Ok(Timestamp(meta::get(connection, KEY_PACKAGES_MADE)?.unwrap_or_default()))
}

/// Makes fresh KeyPackages, to be published when the outbox is next sent.
pub fn publish_key_packages(
    connection: &Connection,
    account: &Account,
    queuing_key: &crate::wire::queuing::QueuingHpkeKey,
    domain: &Domain,
    now: Timestamp,
) -> Result<(), ClientError> {
    meta::put(connection, KEY_PACKAGES_MADE, &now.0)?;
    // Those published earlier are replaced: they no longer count as waiting.
    connection.execute("UPDATE key_packages SET used = used + 1 WHERE used = 0", [])?;
    let packages = packages::key_packages(connection, account, queuing_key, now, &mut system_rng())?;
    let new = outbox::New {
        group: None,
        kind: outbox::Kind::Simple,
        method: Method::QsPublishKeyPackages,
        domain: domain.clone(),
        body: PublishKeyPackages { packages }.to_vec(),
        extra: Vec::new(),
    };
    outbox::insert(connection, new).map(drop)
}

/// Checks what a person typed as a new password.
pub fn check_password(password: &str) -> Result<(), ClientError> {
    if password.is_empty() { Err(ClientError::invalid("a password cannot be empty")) } else { Ok(()) }
}

/// Checks what a person typed as a display name.
pub fn check_name(name: &str) -> Result<(), ClientError> {
    let fits = !name.trim().is_empty() && name.len() <= MAX_NAME && !name.chars().any(char::is_control);
    if fits {
        Ok(())
    } else {
        Err(ClientError::invalid("a name has between 1 and 256 bytes, none of them control characters"))
    }
}

/// A doubt as an error, where nothing more can be fetched.
pub fn doubted(doubt: Doubt) -> ClientError {
    match doubt {
        Doubt::Missing(domain) => ClientError::untrusted(format!("the credentials of {domain} are not known")),
        Doubt::Invalid(error) => ClientError::untrusted(format!("the credential {error}")),
    }
}
