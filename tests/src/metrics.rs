//! Reads the Prometheus text format, as far as tests need it: series and values. Never judges names; promtool does.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};

/// Every series of one exposition, `name{labels}` as exposed → value.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metrics {
    pub series: BTreeMap<String, f64>,
}

impl Metrics {
    pub fn parse(text: &str) -> Result<Metrics> {
        let mut series = BTreeMap::new();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            // A label value may hold spaces, so the value starts after the closing brace when there is one.
            let split = match line.rfind('}') {
                Some(brace) => brace + 1,
                None => line.find(' ').with_context(|| format!("no value in `{line}`"))?,
            };
            let (name, rest) = line.split_at(split);
            let value = rest.split_whitespace().next().with_context(|| format!("no value in `{line}`"))?;
            let value = value.parse().with_context(|| format!("not a number in `{line}`"))?;
            if series.insert(name.to_owned(), value).is_some() {
                bail!("series exposed twice: {name}");
            }
        }
        Ok(Metrics { series })
    }

    /// All series of one metric.
    pub fn family<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (&'a str, f64)> {
        self.series.iter().filter_map(move |(key, value)| {
            let family = key.split('{').next().unwrap_or(key);
            (family == name).then_some((key.as_str(), *value))
        })
    }

    /// Sum over the series of one metric that carry all of these labels.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.family(name)
            .filter(|(key, _)| {
                labels.iter().all(|(label, value)| key.contains(&format!("{label}=\"{value}\"")))
            })
            .map(|(_, value)| value)
            .sum()
    }

    /// The counters that are lower, or gone, in `later`. Must be empty whatever happened in between.
    pub fn stepped_back(&self, later: &Metrics) -> Vec<String> {
        self.series
            .iter()
            .filter(|(key, _)| key.split('{').next().unwrap_or(key).ends_with("_total"))
            // The process's own counters start again with the process.
            .filter(|(key, _)| !key.starts_with("process_"))
            .filter_map(|(key, before)| match later.series.get(key) {
                None => Some(format!("{key}: {before} -> gone")),
                Some(after) if after < before => Some(format!("{key}: {before} -> {after}")),
                Some(_) => None,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::Metrics;

    const TEXT: &str = "# HELP a_total Things.\n# TYPE a_total counter\na_total{x=\"1 }2\"} 3\na_total{x=\"b\"} 4 1700\nup 1\n";

    #[test]
    fn reads_labels_with_spaces_and_braces() {
        let metrics = Metrics::parse(TEXT).expect("valid text");
        assert_eq!(metrics.sum("a_total", &[]), 7.0);
        assert_eq!(metrics.sum("a_total", &[("x", "b")]), 4.0);
        assert_eq!(metrics.series.get("up"), Some(&1.0));
    }

    #[test]
    fn refuses_a_series_exposed_twice() {
        assert!(Metrics::parse("a 1\na 2\n").is_err());
    }

    #[test]
    fn sees_counters_that_step_back_or_vanish_and_ignores_gauges() {
        let before = Metrics::parse("a_total 2\nb_total 1\nc_total 1\ngauge 9\n").expect("valid text");
        let after = Metrics::parse("a_total 1\nc_total 1\ngauge 1\n").expect("valid text");
        assert_eq!(before.stepped_back(&after), ["a_total: 2 -> 1", "b_total: 1 -> gone"]);
    }
}
