//! The API's operations, each in the file of its name; a second file of an operation has its topic as suffix. `money`,
//! `card_states`, `change_log` and `payment_ref` cover several operations together.

mod calling_card_update;
mod calling_cards_create;
mod calling_cards_get;
mod card_balance_get;
mod card_by_cli_update;
mod card_by_cli_update_lookup;
mod card_by_cli_update_money;
mod card_from_group_sell;
mod card_from_group_sell_money;
mod card_group_get;
mod card_payment_add;
mod card_states;
mod cc_group_create;
mod cc_group_create_values;
mod cc_group_update;
mod cc_groups_get;
mod change_log;
mod money;
mod payment_ref;
mod rate_get;
mod tariff_rates_get;
mod tariff_retail_import;
mod tariff_retail_import_document;
mod tariff_retail_import_rules;
mod tariff_wholesale_update;
