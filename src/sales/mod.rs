//! Sales of cards: the statement of one sale, and the batcher that makes several sales in one statement.

pub mod batcher;
pub mod order;
pub mod statement;
