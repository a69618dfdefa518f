//! The table, the ratios and the aims.

use crate::{build::Side, common::median, usage::Usage};

/// The aim for the client's CPU time, as a multiple of buildctl's.
const MAX_CPU_RATIO: f64 = 0.6;
/// The aim for the client's memory with any sink.
const MAX_PEAK_MEBIBYTES: f64 = 32.0;

/// The runs of one case.
pub struct Case {
    pub name: &'static str,
    /// The aim for the ratio of wall times; `None` where a sink sets the time.
    pub max_wall_ratio: Option<f64>,
    pub buildctl: Vec<Usage>,
    pub client: Vec<Usage>,
}

impl Case {
    pub fn new(name: &'static str, max_wall_ratio: Option<f64>) -> Self {
        Self { name, max_wall_ratio, buildctl: Vec::new(), client: Vec::new() }
    }

    pub fn add(&mut self, side: Side, usage: Usage) {
        match side {
            Side::Buildctl => self.buildctl.push(usage),
            Side::Client => self.client.push(usage),
        }
    }

    /// The client's median wall time divided by buildctl's.
    pub fn wall_ratio(&self) -> f64 {
        let wall = |runs: &[Usage]| median(runs.iter().map(|usage| usage.wall_seconds).collect());
        wall(&self.client) / wall(&self.buildctl)
    }

    fn cpu_ratio(&self) -> f64 {
        mean(&self.client, |usage| usage.cpu_seconds)
            / mean(&self.buildctl, |usage| usage.cpu_seconds)
    }

    pub fn client_peak(&self) -> f64 {
        max(&self.client, |usage| usage.peak_mebibytes)
    }

    pub fn print_head() {
        println!(
            "{:<14} {:<9} {:>3} {:>24} {:>9} {:>9} {:>11} {:>11}",
            "case",
            "side",
            "n",
            "wall s min/median/max",
            "CPU s",
            "peak MiB",
            "daemon CPU",
            "daemon peak"
        );
    }

    pub fn print(&self) {
        for (side, runs) in Side::ALL.into_iter().zip([&self.buildctl, &self.client]) {
            let mut wall: Vec<f64> = runs.iter().map(|usage| usage.wall_seconds).collect();
            wall.sort_by(f64::total_cmp);
            let (Some(least), Some(most)) = (wall.first(), wall.last()) else { continue };
            let walls = format!("{least:.3} / {:.3} / {most:.3}", median(wall.clone()));
            println!(
                "{:<14} {:<9} {:>3} {walls:>24} {:>9.3} {:>9.1} {:>11.3} {:>11.1}",
                self.name,
                side.name(),
                runs.len(),
                mean(runs, |usage| usage.cpu_seconds),
                max(runs, |usage| usage.peak_mebibytes),
                mean(runs, |usage| usage.daemon_cpu_seconds),
                max(runs, |usage| usage.daemon_peak_mebibytes),
            );
        }
    }

    pub fn print_verdict(&self) {
        let mut parts = Vec::new();
        let mut part = |name: &str, value: f64, aim: Option<f64>| {
            let verdict = match aim {
                Some(aim) if value <= aim => format!(" (aim {aim})"),
                Some(aim) => format!(" (aim {aim} MISSED)"),
                None => String::new(),
            };
            parts.push(format!("{name} {value:.2}{verdict}"));
        };
        part("wall ratio", self.wall_ratio(), self.max_wall_ratio);
        part("CPU ratio", self.cpu_ratio(), Some(MAX_CPU_RATIO));
        part("peak MiB", self.client_peak(), Some(MAX_PEAK_MEBIBYTES));
        println!("{}: {}", self.name, parts.join(", "));
    }
}

/// The mean, because the CPU time of a short process is rounded to 10 ms.
fn mean(runs: &[Usage], value: impl Fn(&Usage) -> f64) -> f64 {
    let count = runs.iter().map(|_| 1.0).sum::<f64>();
    runs.iter().map(value).sum::<f64>() / count
}

fn max(runs: &[Usage], value: impl Fn(&Usage) -> f64) -> f64 {
    runs.iter().map(value).fold(0.0, f64::max)
}
