//! The dashboard and the alert rules in `contrib/` use existing metrics.

use std::collections::BTreeSet;
use std::path::Path;

use crate::harness::server_with_settings;
use crate::http::monitoring::page_with;

#[tokio::test]
async fn dashboard_and_alerts_use_existing_metrics() {
    let server = server_with_settings(&[("cache", "on")]).await;
    server.post_signed("card_from_group_sell", "u=admin&id=6", "wrong").await;
    let texts = [
        "mortise_cache_valid 1",
        "mortise_cards_left{",
        "mortise_outbox_messages{",
        "mortise_database_snapshot",
        "mortise_sequence_used_ratio{",
    ];
    let page = page_with(&server, &texts).await;
    let is_part = |char: char| char.is_ascii_alphanumeric() || char == '_';
    for file in ["contrib/grafana/mortise.json", "contrib/prometheus/mortise.rules.yml"] {
        let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap();
        let names: BTreeSet<_> =
            text.split(|char| !is_part(char)).filter(|word| word.starts_with("mortise_")).collect();
        assert!(names.len() > 8, "{file} uses few metrics: {names:?}");
        for name in names {
            let exists =
                page.lines().any(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])));
            assert!(exists, "{file} uses {name}, which is not in\n{page}");
        }
    }
}

#[test]
fn dashboard_panels_are_complete() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib/grafana/mortise.json");
    let dashboard: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len());
    for panel in panels {
        assert!(panel["title"].as_str().is_some_and(|title| !title.is_empty()), "{panel}");
        assert!(panel["targets"].as_array().is_some_and(|targets| !targets.is_empty()), "{panel}");
    }
}

/// Each alert has a row in `docs/operations.md`, and each row belongs to an alert.
#[test]
fn alerts_are_documented() {
    let read = |file| std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap();
    let rules = read("contrib/prometheus/mortise.rules.yml");
    let alerts: BTreeSet<_> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() > 10, "{alerts:?}");
    let operations = read("docs/operations.md");
    let section = operations.split("\n### ").find(|section| section.starts_with("Alerts\n")).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let rows: BTreeSet<_> =
        section.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`')).map(|(name, _)| name).collect();
    assert_eq!(alerts, rows, "the alerts of the rules (left) and the rows of docs/operations.md (right)");
    let words = section.split(|char: char| !char.is_alphanumeric());
    let unknown: Vec<_> =
        words.filter(|word| word.starts_with("Mortise") && *word != "Mortise" && !alerts.contains(word)).collect();
    assert!(unknown.is_empty(), "docs/operations.md names alerts that do not exist: {unknown:?}");
}
