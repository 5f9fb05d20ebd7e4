//! The configuration file a test gives the product. The one place that knows the file's keys.

use crate::ports::Ports;

const DELAY_LEVELS: usize = 18;

/// What tests change; everything else stays at the product's defaults.
#[derive(Debug, Clone)]
pub struct Options {
    /// `SYNC_FLUSH` or `ASYNC_FLUSH`, as RocketMQ spells it.
    pub flush_disk_type: &'static str,
    /// Deliveries after the first until a message is dead-lettered.
    pub retry_max: u32,
    /// Every one of the 18 delay levels: tests make them short so that retries take seconds.
    pub delay_level_ms: u32,
    /// Broker and agent, each its own process, note what a power cut would take back (`Stand::undo_log`).
    pub power_cuts: bool,
    /// More lines of the file's `[broker]` section.
    pub broker: String,
    /// Where a master takes replicas.
    pub replication: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            flush_disk_type: "SYNC_FLUSH",
            retry_max: 2,
            delay_level_ms: 1_000,
            power_cuts: false,
            broker: String::new(),
            replication: None,
        }
    }
}

impl Options {
    /// Deliveries of a message that is never consumed, the first included.
    pub fn deliveries_max(&self) -> u32 {
        self.retry_max + 1
    }

    pub fn toml(&self, ports: &Ports) -> String {
        format!(
            "[listen]\n\
             name_server = \"{}\"\n\
             remoting = \"{}\"\n\
             grpc = \"{}\"\n\
             agent_http = \"{}\"\n\
             broker_http = \"{}\"\n\
             feed = \"{}\"\n\
             {}\n\
             [broker]\n\
             flush_disk_type = \"{}\"\n\
             retry_max = {}\n\
             delay_levels_ms = {:?}\n\
             {}\n",
            ports.name_server.address(),
            ports.remoting.address(),
            ports.grpc.address(),
            ports.agent_http.address(),
            ports.broker_http.address(),
            ports.feed.address(),
            self.replication.as_ref().map(|at| format!("replication = \"{at}\"\n")).unwrap_or_default(),
            self.flush_disk_type,
            self.retry_max,
            [self.delay_level_ms; DELAY_LEVELS],
            self.broker,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::Options;
    use crate::ports::Ports;

    #[test]
    fn the_file_is_toml_with_a_port_of_its_own_for_each_listener() {
        let text = Options::default().toml(&Ports::claim().expect("free ports"));
        let file: toml::Table = text.parse().expect("valid TOML");
        let listen = file["listen"].as_table().expect("a table");
        let addresses: std::collections::BTreeSet<_> = listen.values().filter_map(|v| v.as_str()).collect();
        assert_eq!(addresses.len(), 6, "{text}");
        assert_eq!(file["broker"]["delay_levels_ms"].as_array().map(Vec::len), Some(18));
    }
}
