//! One file for each operation of the API.

mod calling_card_update;
mod calling_cards_create;
mod calling_cards_get;
mod card_balance_get;
mod card_by_cli_update;
mod card_from_group_sell;
mod card_group_get;
mod card_payment_add;
pub mod cc_group_create;
mod cc_group_update;
mod cc_groups_get;
mod money;
mod tariff_wholesale_update;
