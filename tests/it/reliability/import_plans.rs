//! Query plans of `tariff_retail_import` with missing, fresh and stale statistics. The statements run for each batch,
//! so none may read a whole table or the whole tariff.

use crate::harness::{Server, server};

const GROUPS: &str = "insert into destinationgroups (name) select 'group ' || i from generate_series(1, 20000) i";
/// A tariff with a rate for each group.
const RATES: &str = "with new_rates as (
         insert into rates (tariff_id, destinationgroup_id) select 1, id from destinationgroups returning id)
     insert into aratedetails (rate_id, \"from\", duration, artype) select id, 1, -1, 'minute' from new_rates";

/// The existing rate of each line of `mortise tariff import` is found by tariff and destination.
async fn check_wholesale(server: &Server) {
    let values = ["1", "array[2]", "array['1']", "array[1]", "array[1]", "array[1]", "array[1]", "array['']"];
    let plan =
        server.query_plan(&["Writes a batch of lines into the wholesale tariff"], "force_generic_plan", &values).await;
    assert!(plan.contains("using rates_tariff_destination on rates"), "{plan}");
    assert!(!plan.contains("rates_pkey") && !plan.contains("Seq Scan on rates"), "{plan}");
}

#[tokio::test]
async fn wholesale_import_reads_only_what_it_needs() {
    let server = server().await;
    for table in ["destinations", "rates", "ratedetails"] {
        server.execute(&format!("alter table {table} set (autovacuum_enabled = off)")).await;
    }
    const DESTINATIONS: &str = "insert into destinations (prefix) select i::text from generate_series(1, 20000) i";
    const WHOLESALE: &str = "insert into rates (tariff_id, destination_id) select 1, id from destinations";
    // Missing.
    check_wholesale(&server).await;
    server.execute(DESTINATIONS).await;
    server.execute(WHOLESALE).await;
    check_wholesale(&server).await;
    // Fresh.
    server.execute("analyze").await;
    check_wholesale(&server).await;
    // All rates have one destination.
    server.execute("truncate rates").await;
    server.execute("insert into rates (tariff_id, destination_id) select 1, 5 from destinations; analyze").await;
    check_wholesale(&server).await;
    // Stale: there were few rows at the last analyze.
    server.execute("truncate destinations, rates").await;
    server.execute("insert into rates (tariff_id) values (2); analyze").await;
    server.execute(DESTINATIONS).await;
    server.execute(WHOLESALE).await;
    check_wholesale(&server).await;
}

async fn check(server: &Server) {
    for (parts, values, index) in [
        (&["unnest($1::text[]) with ordinality as sent"][..], "array['group 1', 'group 2']", "destinationgroups_name"),
        (&["from aratedetails where rate_id = any ($1)"], "array[1, 2]::bigint[]", "aratedetails_rate"),
    ] {
        let plan = server.query_plan(parts, "force_generic_plan", &[values]).await;
        assert!(plan.contains(&format!(" using {index} on ")), "{plan}");
        assert!(!plan.contains("Seq Scan") && !plan.contains("_pkey"), "{plan}");
    }
    // Read once: the rates of the tariff, and no others.
    let plan = server.query_plan(&["min(id) as \"rate_id!\" from rates"], "force_generic_plan", &["1"]).await;
    assert!(plan.contains("Index Cond: (tariff_id = $1)") && !plan.contains("Seq Scan"), "{plan}");
}

#[tokio::test]
async fn import_reads_only_what_it_needs() {
    let server = server().await;
    for table in ["destinationgroups", "rates", "aratedetails"] {
        server.execute(&format!("alter table {table} set (autovacuum_enabled = off)")).await;
    }
    // Missing.
    server.execute("insert into destinationgroups (name) values ('first')").await;
    check(&server).await;
    server.execute(GROUPS).await;
    server.execute(RATES).await;
    check(&server).await;
    // Fresh.
    server.execute("analyze").await;
    check(&server).await;
    // Stale: there were few rows at the last analyze.
    server.execute("truncate destinationgroups, rates, aratedetails").await;
    server.execute("insert into destinationgroups (name) values ('first'); analyze").await;
    server.execute(GROUPS).await;
    server.execute(RATES).await;
    check(&server).await;
}
