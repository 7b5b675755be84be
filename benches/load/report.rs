//! Figures beside their floors: a table for people, JSON for programs.

use std::{fmt::Write as _, fs, path::Path};

use serde::Serialize;

/// What a figure, or its ratio to the floor if it has one, is to be.
#[derive(Clone, Copy)]
pub enum Target {
    AtMost(f64),
    AtLeast(f64),
}

impl Target {
    fn is_met_by(self, value: f64) -> bool {
        match self {
            Self::AtMost(most) => value <= most,
            Self::AtLeast(least) => value >= least,
        }
    }

    fn text(self) -> String {
        match self {
            Self::AtMost(most) => format!("<= {most}"),
            Self::AtLeast(least) => format!(">= {least}"),
        }
    }
}

/// One figure.
#[derive(Serialize)]
struct Figure {
    name: String,
    value: f64,
    unit: &'static str,
    floor: Option<f64>,
    ratio: Option<f64>,
    target: Option<String>,
    met: Option<bool>,
}

/// All figures of a run.
#[derive(Default)]
pub struct Report(Vec<Figure>);

impl Report {
    fn add(&mut self, name: String, value: f64, unit: &'static str, floor: Option<f64>, target: Option<Target>) {
        let ratio = floor.map(|floor| value / floor);
        let met = target.map(|target| target.is_met_by(ratio.unwrap_or(value)));
        let figure = Figure { name, value, unit, floor, ratio, target: target.map(Target::text), met };
        println!("{}", line(&figure));
        self.0.push(figure);
    }

    /// A figure, its floor as measured in this run, and what their ratio is to be.
    pub fn ratio(&mut self, name: impl Into<String>, value: f64, unit: &'static str, floor: f64, target: Target) {
        self.add(name.into(), value, unit, Some(floor), Some(target));
    }

    /// A figure that is to be something by itself.
    pub fn value(&mut self, name: impl Into<String>, value: f64, unit: &'static str, target: Target) {
        self.add(name.into(), value, unit, None, Some(target));
    }

    /// A figure that explains others.
    pub fn note(&mut self, name: impl Into<String>, value: f64, unit: &'static str) {
        self.add(name.into(), value, unit, None, None);
    }

    /// Whether every target is met.
    pub fn is_met(&self) -> bool {
        self.0.iter().all(|figure| figure.met != Some(false))
    }

    /// The whole as a table in Markdown.
    pub fn table(&self) -> String {
        let mut table = String::from("| figure | value | floor | ratio | target | |\n|---|---|---|---|---|---|\n");
        for figure in &self.0 {
            let Figure { name, value, unit, floor, ratio, target, met } = figure;
            let number = |value: Option<f64>| value.map(rounded).unwrap_or_default();
            let met = met.map_or("", |met| if met { "met" } else { "missed" });
            let target = target.as_deref().unwrap_or_default();
            let (value, floor, ratio) = (rounded(*value), number(*floor), number(*ratio));
            writeln!(table, "| {name} | {value} {unit} | {floor} | {ratio} | {target} | {met} |").expect("a string");
        }
        table
    }

    /// The whole as a list of objects.
    pub fn write(&self, file: &Path) -> std::io::Result<()> {
        fs::write(file, serde_json::to_vec_pretty(&self.0)?)
    }
}

/// What is shown while the run goes on.
fn line(figure: &Figure) -> String {
    let Figure { name, value, unit, floor, ratio, target, met } = figure;
    let mut line = format!("{name:<58} {:>10} {unit}", rounded(*value));
    if let (Some(floor), Some(ratio)) = (floor, ratio) {
        write!(line, ", floor {}, ratio {}", rounded(*floor), rounded(*ratio)).expect("a string");
    }
    if let (Some(target), Some(met)) = (target, met) {
        write!(line, " ({target}: {})", if *met { "met" } else { "missed" }).expect("a string");
    }
    line
}

/// Three significant digits, or all before the point.
fn rounded(value: f64) -> String {
    let digits = match value.abs() {
        value if value >= 100.0 => 0,
        value if value >= 10.0 => 1,
        value if value >= 0.1 || value == 0.0 => 2,
        _ => 4,
    };
    format!("{value:.digits$}")
}
