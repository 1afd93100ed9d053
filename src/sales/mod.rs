//! Selling cards: the statement of one sale, and the batcher that sells for several requests in one statement.

mod batch_statement;
pub mod batcher;
pub mod statement;
