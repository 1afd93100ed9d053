//! What was measured, as a table and as JSON.

use std::time::Duration;

use serde_json::{Value, json};

/// One thing that was measured.
#[derive(Debug)]
pub struct Measurement {
    pub name: String,
    pub value: f64,
    pub unit: &'static str,
    pub latency: Option<(Duration, Duration)>,
    /// What it is held against: its name, and how much that came to.
    pub baseline: Option<(&'static str, f64)>,
    pub goal: Option<Goal>,
}

#[derive(Debug, Clone, Copy)]
pub enum Goal {
    /// Of the yardstick.
    RatioAtLeast(f64),
    /// Likewise.
    RatioAtMost(f64),
    AtLeast(f64),
    AtMost(f64),
}

impl Measurement {
    pub fn new(what: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self { name: what.into(), value, unit, latency: None, baseline: None, goal: None }
    }

    pub fn with_baseline(mut self, name: &'static str, value: f64) -> Self {
        self.baseline = Some((name, value));
        self
    }

    pub fn with_goal(mut self, goal: Goal) -> Self {
        self.goal = Some(goal);
        self
    }

    pub fn with_latency(mut self, p50: Duration, p99: Duration) -> Self {
        self.latency = Some((p50, p99));
        self
    }

    fn ratio(&self) -> Option<f64> {
        self.baseline.map(|(_, yardstick)| self.value / yardstick)
    }

    fn is_goal_met(&self) -> Option<bool> {
        Some(match self.goal? {
            Goal::RatioAtLeast(share) => self.ratio()? >= share,
            Goal::RatioAtMost(share) => self.ratio()? <= share,
            Goal::AtLeast(least) => self.value >= least,
            Goal::AtMost(most) => self.value <= most,
        })
    }
}

/// Everything that was measured.
#[derive(Debug, Default)]
pub struct Report(pub Vec<Measurement>);

impl Report {
    /// Takes a line down, and shows that the run goes on.
    pub fn add(&mut self, line: Measurement) {
        eprintln!("  {}: {} {}", line.name, format_value(line.value), line.unit);
        self.0.push(line);
    }

    pub fn print(&self) {
        println!("| what | | p50 ms | p99 ms | yardstick | | ratio | goal | |");
        println!("| --- | ---: | ---: | ---: | --- | ---: | ---: | --- | --- |");
        for line in &self.0 {
            let ms = |duration: Duration| format!("{:.2}", duration.as_secs_f64() * 1000.0);
            let (p50, p99) = line.latency.map_or_else(Default::default, |(p50, p99)| (ms(p50), ms(p99)));
            let (name, yardstick) =
                line.baseline.map_or(("", String::new()), |(name, value)| (name, format_value(value)));
            let ratio = line.ratio().map(|ratio| format!("{ratio:.2}")).unwrap_or_default();
            let goal = match line.goal {
                None => String::new(),
                Some(Goal::RatioAtLeast(share)) => format!("≥ {share} of it"),
                Some(Goal::RatioAtMost(share)) => format!("≤ {share} of it"),
                Some(Goal::AtLeast(least)) => format!("≥ {least}"),
                Some(Goal::AtMost(most)) => format!("≤ {most}"),
            };
            let met = line.is_goal_met().map_or("", |met| if met { "met" } else { "**not met**" });
            println!(
                "| {} | {} {} | {p50} | {p99} | {name} | {yardstick} | {ratio} | {goal} | {met} |",
                line.name,
                format_value(line.value),
                line.unit
            );
        }
    }

    pub fn to_json(&self) -> String {
        let line = |line: &Measurement| -> Value {
            json!({
                "what": line.name,
                "value": line.value,
                "unit": line.unit,
                "p50_ms": line.latency.map(|(p50, _)| p50.as_secs_f64() * 1000.0),
                "p99_ms": line.latency.map(|(_, p99)| p99.as_secs_f64() * 1000.0),
                "yardstick": line.baseline.map(|(name, value)| json!({ "what": name, "value": value })),
                "ratio": line.ratio(),
                "met": line.is_goal_met(),
            })
        };
        format!("{:#}\n", Value::Array(self.0.iter().map(line).collect()))
    }
}

/// Three digits that count.
fn format_value(value: f64) -> String {
    match value.abs() {
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}
