//! Imports the database of a MOR system from MySQL or MariaDB: `mortise import`, and compares it again later:
//! `mortise reconcile`. The contract page is `import.md`.
//!
//! Steps, one file each: [`source`] connects, [`inspect`] reads both schemas, [`stage`] copies the rows of one snapshot
//! into the schema `mor_import`, [`validate`] finds invalid data there, [`report`] prints the findings and reads
//! decisions, [`build`] fills the tables in one transaction, [`verify`] compares both sides before it commits.

pub mod build;
mod card_states;
pub mod charset;
pub mod checksum;
pub mod encode;
pub mod error;
pub mod imported_run;
pub mod inspect;
pub mod lock;
pub mod outcome;
pub mod progress;
pub mod reconcile;
pub mod record;
pub mod replace;
pub mod report;
pub mod reuse;
pub mod run;
pub mod secret;
pub mod source;
pub mod stage;
pub mod sums;
pub mod target;
pub mod time_zone;
pub mod validate;
pub mod verify;
