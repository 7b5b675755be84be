//! What every other room rests on: identifiers, time, limits and the table of statuses. No I/O, no dependencies on
//! other rooms.

pub mod address;
pub mod cache;
pub mod hex;
pub mod id;
pub mod limits;
pub mod secret;
pub mod status;
pub mod time;

pub use cache::Cache;
pub use id::{AliasId, ClientId, Domain, GroupId, QsClientId, QsUserId, UserId};
pub use secret::Secret;
pub use status::{Refusal, Status};
pub use time::{Clock, Day, SystemClock, Timestamp};
