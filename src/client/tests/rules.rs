//! Rules of the Delivery Service beyond those of RFC 9420: who joins, who comes back, whose identity is whose, and for how long
//! a joiner finds what its Welcome does not contain.

use openmls::prelude::{LeafNodeParameters, NewSignerBundle, OpenMlsProvider as _};

use super::{
    growth::{adding, queue_config_of, stranger_as},
    hostile::{Hostile, Parts, all_is_well, everything, group_of},
    *,
};
use crate::client::resync::Reason;
use crate::{
    base::{Refusal, Status},
    client::{
        commit::{Intent, commit_bundle, member_info},
        mls::Provider,
        network::Sender,
        outgoing::lane_of,
        state::{chats, keys, outbox, queues::Queue},
    },
    crypto::{mls as protocol, random, signature::SigningKey},
    wire::{
        Call, SenderId,
        delivery::{
            AddUsers, CommitAad, CommitBundle, GetExternalCommitInfo, GetWelcomeInfo, JoinConnectionGroup, Resync,
            SelfRemove, UpdateClient, WelcomeInfo,
        },
        envelope::{KeyPackageId, LeafId},
        method::call,
        mls::WelcomeMessage,
    },
};

impl User {
    /// The work is given up when its request to `method` is on its way, which is not carried out and waits in the outbox: gives
    /// that.
    pub(super) async fn given_up_at<F: Future<Output = ()> + Send + 'static>(
        &self,
        method: Method,
        work: impl FnOnce(Client) -> F,
    ) -> Vec<u8> {
        let handler = &self.server.handler;
        *handler.hang_at.lock().unwrap() = Some(method);
        *handler.hang.lock().unwrap() = Some(Hang { after: 0, carried_out: false });
        let mut task = tokio::spawn(work(self.client.clone()));
        tokio::select! {
            () = handler.hung.notified() => task.abort(),
            _ = &mut task => panic!("it is done without such a request"),
        }
        assert!(task.await.unwrap_err().is_cancelled());
        *handler.hang_at.lock().unwrap() = None;
        self.held(method).await.unwrap()
    }

    /// The request to `method` that waits in the outbox, if there is one.
    async fn held(&self, method: Method) -> Option<Vec<u8>> {
        let find = move |connection: &rusqlite::Connection| {
            for (lane, _) in outbox::lanes(connection)? {
                if let Some(pending) = outbox::next(connection, &lane)?.filter(|pending| pending.method == method) {
                    return Ok(Some(pending.body));
                }
            }
            Ok::<_, ClientError>(None)
        };
        self.client.0.database.run(find).await.unwrap()
    }

    /// The identity of a member's leaf.
    async fn identity_of(&self, group: &GroupId, user: &User) -> [u8; 32] {
        let (group, id) = (group.clone(), user.id());
        let members = move |connection: &rusqlite::Connection| chats::members(connection, &group);
        let members = self.client.0.database.run(members).await.unwrap();
        members.iter().find(|member| member.is(&id)).unwrap().identity
    }

    async fn request<C: Call>(&self, sender: Sender<'_>, request: &C::Request) -> Result<C::Response, Refusal> {
        let network = &self.client.0.network;
        match network.call::<C>(&self.id().domain, Isolation::Delivery, sender, request).await {
            Ok(response) => Ok(response),
            Err(ClientError::Refused(refusal)) => Err(refusal),
            Err(other) => panic!("{other}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_who_accept_the_same_offer_the_first_joins_and_stays() {
    for twin_is_first in [false, true] {
        let server = Homeserver::start().await;
        let (alice, bob) = (server.register("Alice").await, server.register("Bob").await);
        let chat = alice.client.connect(&bob.id()).await.unwrap();
        bob.client.sync().await.unwrap();
        // A copy of Bob's client has the offer too, and with it the EAR key.
        let (bob, copy) = bob.copied().await;
        let client = Client::open_over(copy.path(), server.connector(), server.options()).await.unwrap();
        let twin = User { home: copy, client, server: server.clone() };
        let mut joins = Vec::new();
        for user in [&bob, &twin] {
            let id = user.client.requests().await.unwrap().remove(0).id;
            let accept = |client: Client| async move { _ = client.accept(&id).await };
            let body = user.given_up_at(Method::DsJoinConnectionGroup, accept).await;
            joins.push((user, JoinConnectionGroup::from_slice(&body).unwrap()));
        }
        if twin_is_first {
            joins.reverse();
        }
        // Each of them is valid, as the order shows in which it comes first.
        let [(winner, first), (_, second)] = &joins[..] else { panic!() };
        let join = async |request| alice.request::<call::DsJoinConnectionGroup>(Sender::Nobody, request).await;
        let accepted = join(first).await.unwrap();
        let before = everything(&server).await;
        assert_eq!(join(second).await.unwrap_err().status, Status::Forbidden);
        let read = GetExternalCommitInfo { access: second.commit.access.clone() };
        let told = alice.request::<call::DsExternalCommitInfo>(Sender::Nobody, &read).await;
        assert_eq!(told.unwrap_err().status, Status::Forbidden);
        assert_eq!(join(first).await.unwrap(), accepted, "a repeat");
        assert!(everything(&server).await == before, "refused means unchanged");
        winner.client.sync().await.unwrap();
        alice.client.sync().await.unwrap();
        alice.say(&chat, "is it you?").await;
        assert_eq!(winner.hear().await, [said("Alice", "is it you?")]);
        winner.say(&chat, "it is").await;
        assert_eq!(alice.hear().await, [said("Bob", "it is")]);
        for user in [&alice, *winner] {
            assert_eq!(user.client.problems().await.unwrap(), Vec::new());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_joiner_finds_the_tree_of_its_epoch_until_its_first_commit_and_nobody_else_does() {
    let server = Homeserver::start().await;
    let (users, group) = group_of(&server).await;
    let [alice, mallory, carol, dave] = &users;
    let by = Hostile::of(alice, &group).await;
    let add = AddUsers::from_slice(&by.honest(Intent::Invite(vec![dave.id()])).await).unwrap();
    let epoch = by.send::<call::DsAddUsers>(&add).await.unwrap().epoch;
    let welcome = WelcomeMessage::from_slice(add.welcome.as_slice()).unwrap();
    let reference = welcome.secrets[0].new_member.clone();
    let of = reference.clone();
    let key = move |connection: &rusqlite::Connection| keys::package_key(connection, of.as_slice());
    let key = SigningKey::from_seed(dave.client.0.database.run(key).await.unwrap().unwrap().leaf_seed).unwrap();
    let id = |reference: &[u8]| {
        SenderId::DsKeyPackage(KeyPackageId { group: group.clone(), reference: reference.to_vec().into() })
    };
    let request = |epoch| GetWelcomeInfo { access: add.commit.access.clone(), epoch };
    let ask = async |sender, key: &SigningKey, epoch| -> Result<WelcomeInfo, Status> {
        let asked = dave.request::<call::DsWelcomeInfo>(Sender::Signed(sender, key), &request(epoch)).await;
        asked.map_err(|refusal| refusal.status)
    };
    let own = || id(reference.as_slice());
    let first = ask(own(), &key, epoch).await.unwrap();
    assert_eq!(first.members.len(), 4);
    let before = everything(&server).await;
    for other in [epoch - 1, epoch + 1] {
        assert_eq!(ask(own(), &key, other).await, Err(Status::NotFound), "another epoch than that of the Welcome");
    }
    let unproven = Err(Status::Unauthenticated);
    assert_eq!(ask(id(&[7; 32]), &key, epoch).await, unproven, "another KeyPackage");
    let another = Hostile::of(mallory, &group).await;
    assert_eq!(ask(own(), &another.key, epoch).await, unproven, "another member's key");
    let leaf = SenderId::DsLeaf(LeafId { group: group.clone(), leaf: another.chat.leaf });
    assert_eq!(ask(leaf, &another.key, epoch).await, unproven, "a member that is no joiner");
    assert!(everything(&server).await == before, "who only asks changes nothing");
    // The group goes on: Alice, who has forgotten her commit, comes back, and the others renew their keys.
    alice.client.sync().await.unwrap();
    for user in [mallory, carol] {
        user.client.sync().await.unwrap();
        user.client.0.change(&group, Intent::Update).await.unwrap();
    }
    assert_eq!(ask(own(), &key, epoch).await.as_ref(), Ok(&first));
    assert_eq!(ask(own(), &key, epoch + 1).await, Err(Status::NotFound));
    dave.client.0.drain(Queue::Client).await.unwrap();
    assert_eq!(dave.state(&group).await, ChatState::Active);
    assert_eq!(ask(own(), &key, epoch).await.as_ref(), Ok(&first), "joined, but without a commit of its own");
    dave.client.0.change(&group, Intent::Update).await.unwrap();
    assert_eq!(ask(own(), &key, epoch).await, unproven, "after its first commit");
    dave.agrees_with(&[alice, mallory, carol], &group, "here I am").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_proposed_to_leave_does_not_come_back_by_resync() {
    let server = Homeserver::start().await;
    let (users, group) = group_of(&server).await;
    let [alice, mallory, carol, _] = &users;
    let by = Hostile::of(carol, &group).await;
    let core = &carol.client.0;
    assert!(core.prepare_leave(&group, vec![1], None).await.unwrap());
    let leave = SelfRemove::from_slice(&carol.held(Method::DsSelfRemove).await.unwrap()).unwrap();
    let lane = lane_of(&group);
    let take_out = move |connection: &rusqlite::Connection| outbox::clear(connection, &lane);
    core.database.run(take_out).await.unwrap();
    let resync = core.prepare_resync(&group, Reason::Lost, vec![2], None).await.unwrap().unwrap();
    let resync = Resync::from_slice(&resync.body).unwrap();
    by.send::<call::DsSelfRemove>(&leave).await.unwrap();
    let before = everything(&server).await;
    let refused = by.send::<call::DsResync>(&resync).await.unwrap_err();
    assert_eq!(refused.status, Status::Forbidden);
    assert!(refused.message.contains("proposed to leave"), "{refused:?}");
    assert!(everything(&server).await == before, "refused means unchanged");
    // Another's resync carries her leaving out.
    mallory.client.0.resync(&group, Reason::Lost).await.unwrap();
    assert_eq!(by.send::<call::DsResync>(&resync).await.unwrap_err().status, Status::Unauthenticated);
    mallory.agrees_with(&[alice], &group, "two are left").await;
    assert_eq!(alice.client.members(&group).await.unwrap().len(), 2);
}

/// A commit that gives a leaf a fresh key and the identity that is wanted, or a new one. Its sender forgets it.
async fn renewal(by: &Hostile<'_>, user: &User, identity: Option<[u8; 32]>) -> UpdateClient {
    let (core, chat) = (user.client.0.clone(), by.chat.clone());
    let build = move |connection: &rusqlite::Connection| {
        let (provider, mut rng, account) = (Provider::new(connection), system_rng(), core.account());
        let mut state = mls::load(&provider, &chat.group)?;
        let (key, leaf, chain) = account.new_leaf(identity, core.trust.now().day(), &mut rng)?;
        let own = member_info(&chat, &leaf.verifying_key, &chain, &account.keys.friendship.user_profile_key, &mut rng);
        let aad = CommitAad { added: Vec::new(), own: Some(own), friendship_package: None };
        state.set_aad(aad.to_vec());
        let credential_with_key = mls::credential_with_key(&leaf);
        let parameters = LeafNodeParameters::builder().with_capabilities(protocol::capabilities()).build();
        let bundle = state
            .commit_builder()
            .leaf_node_parameters(parameters)
            .force_self_update(true)
            .load_psks(provider.storage())
            .map_err(mls::failed)?
            .create_group_info(true)
            .use_ratchet_tree_extension(false)
            .build_with_new_signer(
                provider.rand(),
                provider.crypto(),
                &mls::signer(&chat)?,
                NewSignerBundle { signer: &key, credential_with_key },
                |_| true,
            )
            .map_err(mls::failed)?
            .stage_commit(&provider)
            .map_err(mls::failed)?;
        let commit = commit_bundle(&chat, &bundle, &mut rng)?;
        state.clear_pending_commit(provider.storage())?;
        Ok::<_, ClientError>(UpdateClient { commit, queue_config: None })
    };
    user.client.0.database.run(build).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listed_identity_is_neither_given_up_nor_taken_and_no_two_members_have_one() {
    let server = Homeserver::start().await;
    let (users, group) = group_of(&server).await;
    let [alice, mallory, carol, _] = &users;
    // Carol is listed, and gone: that makes her identity nobody's.
    carol.client.0.change(&group, Intent::Update).await.unwrap();
    alice.client.add_admins(&group, &[carol.id()]).await.unwrap();
    let gone = alice.identity_of(&group, carol).await;
    alice.client.remove(&group, &[carol.id()]).await.unwrap();
    mallory.client.sync().await.unwrap();
    let (listed, unlisted) = (alice.identity_of(&group, alice).await, alice.identity_of(&group, mallory).await);
    let (admin, member) = (Hostile::of(alice, &group).await, Hostile::of(mallory, &group).await);
    let before = everything(&server).await;

    let config = queue_config_of(mallory).await;
    for (identity, status) in
        [(listed, Status::Forbidden), (gone, Status::Forbidden), (unlisted, Status::InvalidMlsMessage)]
    {
        let newcomer = stranger_as(alice, &config, Some(identity));
        let add = adding(alice, &group, vec![newcomer]).await;
        admin.forget().await;
        let refused = admin.send::<call::DsAddUsers>(&add).await.unwrap_err();
        assert_eq!(refused.status, status, "{refused:?}");
        assert!(refused.message.contains("identity"), "{refused:?}");
    }
    for (by, user, identity) in [
        (&admin, alice, None),
        (&admin, alice, Some(gone)),
        (&member, mallory, Some(listed)),
        (&member, mallory, Some(gone)),
    ] {
        let refused = by.send::<call::DsUpdateClient>(&renewal(by, user, identity).await).await.unwrap_err();
        assert_eq!(refused.status, Status::Forbidden, "{refused:?}");
        assert!(refused.message.contains("identity"), "{refused:?}");
    }
    assert!(everything(&server).await == before, "refused means unchanged");
    // Nothing else was wrong with them: who is not listed takes a new one, and a newcomer has one of its own.
    member.send::<call::DsUpdateClient>(&renewal(&member, mallory, None).await).await.unwrap();
    alice.client.0.drain(Queue::Client).await.unwrap();
    assert_ne!(alice.identity_of(&group, mallory).await, unlisted);
    let add = adding(alice, &group, vec![stranger_as(alice, &config, None)]).await;
    admin.send::<call::DsAddUsers>(&add).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_is_not_added_again() {
    let server = Homeserver::start().await;
    let (users, group) = group_of(&server).await;
    let [alice, _, _, dave] = &users;
    let eve = server.register("Eve").await;
    befriend(alice, &eve).await;
    let by = Hostile::of(alice, &group).await;
    let first = AddUsers::from_slice(&by.honest(Intent::Invite(vec![dave.id()])).await).unwrap();
    by.send::<call::DsAddUsers>(&first).await.unwrap();
    // She has forgotten it, and comes back to an epoch in which Dave is a member.
    for user in &users {
        user.client.sync().await.unwrap();
    }
    alice.client.sync().await.unwrap();
    assert_eq!(alice.client.members(&group).await.unwrap().len(), 4);
    let by = Hostile::of(alice, &group).await;
    let other = AddUsers::from_slice(&by.honest(Intent::Invite(vec![eve.id()])).await).unwrap();
    let (parts, again) = (Parts::of(&other.commit.commit), Parts::of(&first.commit.commit).proposals);
    let both = [parts.proposals.clone(), again.clone()].concat();
    let before = everything(&server).await;
    for proposals in [again, both] {
        let parts = Parts { proposals, ..parts.clone() };
        let commit = CommitBundle {
            idempotency_key: random(&mut system_rng()),
            commit: parts.signed(&by.key, &by.context),
            ..other.commit.clone()
        };
        let refused = by.send::<call::DsAddUsers>(&AddUsers { commit, ..other.clone() }).await.unwrap_err();
        assert_eq!(refused.status, Status::InvalidMlsMessage, "{refused:?}");
        assert!(refused.message.contains("12.4.2"), "{refused:?}");
    }
    assert!(everything(&server).await == before, "refused means unchanged");
    by.send::<call::DsAddUsers>(&other).await.expect("the epoch is the current one");
    alice.client.sync().await.unwrap();
    all_is_well(&users, &group).await;
}
