//! The results, as a table and as JSON.

use std::time::Duration;

use serde_json::{Value, json};

/// One result.
#[derive(Debug)]
pub struct Measurement {
    pub name: String,
    pub value: f64,
    pub unit: &'static str,
    /// p50 and p99.
    pub latency: Option<(Duration, Duration)>,
    /// The name and the value of the baseline.
    pub baseline: Option<(&'static str, f64)>,
    pub goal: Option<Goal>,
}

/// A goal for the ratio to the baseline, or for the value.
#[derive(Debug, Clone, Copy)]
pub enum Goal {
    RatioAtLeast(f64),
    RatioAtMost(f64),
    AtLeast(f64),
    AtMost(f64),
}

impl Measurement {
    pub fn new(name: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self { name: name.into(), value, unit, latency: None, baseline: None, goal: None }
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
        self.baseline.map(|(_, baseline)| self.value / baseline)
    }

    fn is_goal_met(&self) -> Option<bool> {
        Some(match self.goal? {
            Goal::RatioAtLeast(min) => self.ratio()? >= min,
            Goal::RatioAtMost(max) => self.ratio()? <= max,
            Goal::AtLeast(min) => self.value >= min,
            Goal::AtMost(max) => self.value <= max,
        })
    }

    /// The row of the table.
    fn to_row(&self) -> String {
        let ms = |duration: Duration| format!("{:.2}", duration.as_secs_f64() * 1000.0);
        let (p50, p99) = self.latency.map_or_else(Default::default, |(p50, p99)| (ms(p50), ms(p99)));
        let (baseline, baseline_value) =
            self.baseline.map_or(("", String::new()), |(name, value)| (name, format_value(value)));
        let ratio = self.ratio().map(|ratio| format!("{ratio:.2}")).unwrap_or_default();
        let goal = match self.goal {
            None => String::new(),
            Some(Goal::RatioAtLeast(min)) => format!("ratio ≥ {min}"),
            Some(Goal::RatioAtMost(max)) => format!("ratio ≤ {max}"),
            Some(Goal::AtLeast(min)) => format!("≥ {min}"),
            Some(Goal::AtMost(max)) => format!("≤ {max}"),
        };
        let met = self.is_goal_met().map_or("", |met| if met { "yes" } else { "**no**" });
        let (name, value, unit) = (&self.name, format_value(self.value), self.unit);
        format!(
            "| {name} | {value} {unit} | {p50} | {p99} | {baseline} | {baseline_value} | {ratio} | {goal} | {met} |"
        )
    }
}

/// All results, in the order of the measurements.
#[derive(Debug, Default)]
pub struct Report(pub Vec<Measurement>);

impl Report {
    /// Adds a result and prints its row on standard error: what is measured is known even if a later one panics.
    pub fn add(&mut self, measurement: Measurement) {
        eprintln!("{}", measurement.to_row());
        self.0.push(measurement);
    }

    pub fn print(&self) {
        println!("| measurement | result | p50 ms | p99 ms | baseline | result | ratio | goal | met |");
        println!("| --- | ---: | ---: | ---: | --- | ---: | ---: | --- | --- |");
        for measurement in &self.0 {
            println!("{}", measurement.to_row());
        }
    }

    pub fn to_json(&self) -> String {
        let object = |measurement: &Measurement| -> Value {
            json!({
                "name": measurement.name,
                "value": measurement.value,
                "unit": measurement.unit,
                "p50_ms": measurement.latency.map(|(p50, _)| p50.as_secs_f64() * 1000.0),
                "p99_ms": measurement.latency.map(|(_, p99)| p99.as_secs_f64() * 1000.0),
                "baseline": measurement.baseline.map(|(name, value)| json!({ "name": name, "value": value })),
                "ratio": measurement.ratio(),
                "met": measurement.is_goal_met(),
            })
        };
        format!("{:#}\n", Value::Array(self.0.iter().map(object).collect()))
    }
}

/// Formats a value: without decimals from 100 on, with one from 10 on, else with three.
fn format_value(value: f64) -> String {
    match value.abs() {
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}
