//! The configuration file a test gives the product. The one place that knows the file's keys.

use crate::ports::Ports;

/// What tests change; everything else stays at the product's defaults.
#[derive(Debug, Clone)]
pub struct Options {
    /// `SYNC_FLUSH` or `ASYNC_FLUSH`, as RocketMQ spells it.
    pub flush_disk_type: &'static str,
    /// Deliveries after the first until a message is dead-lettered (RocketMQ's `retryMaxTimes`).
    pub retry_max_times: u32,
    /// The 18 delay levels; tests make them short so that retries take seconds.
    pub message_delay_level: &'static str,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            flush_disk_type: "SYNC_FLUSH",
            retry_max_times: 2,
            message_delay_level: "1s 1s 1s 1s 1s 1s 1s 1s 1s 1s 1s 1s 1s 1s 1s 1s 1s 1s",
        }
    }
}

impl Options {
    /// Deliveries of a message that is never consumed, the first included.
    pub fn deliveries_max(&self) -> u32 {
        self.retry_max_times + 1
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
             \n\
             [broker]\n\
             flush_disk_type = \"{}\"\n\
             retry_max_times = {}\n\
             message_delay_level = \"{}\"\n",
            ports.name_server.address(),
            ports.remoting.address(),
            ports.grpc.address(),
            ports.agent_http.address(),
            ports.broker_http.address(),
            ports.feed.address(),
            self.flush_disk_type,
            self.retry_max_times,
            self.message_delay_level,
        )
    }
}
