//! Reports from the payments that Mortise has written. Each reads in one snapshot. Amounts are exact sums of the
//! stored amounts, with one row for each currency: amounts of different currencies are never added.
//!
//! Payments from MOR have no kind and are in no report.

pub mod filter;
pub mod payments;
pub mod period;
pub mod reconciliation;
pub mod sales;
pub mod statement;
pub mod stock;
pub mod tax;
pub mod today;
