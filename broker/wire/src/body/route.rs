//! What the name server answers: a topic's route (105), the cluster (106), the topics (206).
//!
//! Owns: these bodies. Called by: the edge.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{encode, put, put_map};

/// `TopicRouteData`: the one body with number keys that Java quotes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TopicRoute {
    pub broker_datas: Vec<BrokerData>,
    pub filter_server_table: BTreeMap<String, Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order_topic_conf: Option<String>,
    pub queue_datas: Vec<QueueData>,
}

impl TopicRoute {
    pub fn encode(&self) -> Bytes {
        encode(self)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BrokerData {
    /// By broker id, 0 is the master.
    pub broker_addrs: BTreeMap<u64, String>,
    pub broker_name: String,
    pub cluster: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct QueueData {
    pub broker_name: String,
    /// 4 read, 2 write, 6 both; +1 inherit.
    pub perm: i32,
    #[serde(rename = "readQueueNums")]
    pub read_queues: i32,
    pub topic_sys_flag: i32,
    #[serde(rename = "writeQueueNums")]
    pub write_queues: i32,
}

/// `ClusterInfo`, the answer to 106: here Java does not quote the broker ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterInfo {
    /// By broker name.
    pub brokers: BTreeMap<String, BrokerData>,
    /// Broker names of each cluster.
    pub clusters: BTreeMap<String, Vec<String>>,
}

impl ClusterInfo {
    pub fn encode(&self) -> Bytes {
        let mut out = b"{\"brokerAddrTable\":{".to_vec();
        for (index, (name, broker)) in self.brokers.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            put(&mut out, name);
            out.extend_from_slice(b":{\"brokerAddrs\":");
            put_map(&mut out, &broker.broker_addrs);
            out.extend_from_slice(b",\"brokerName\":");
            put(&mut out, &broker.broker_name);
            out.extend_from_slice(b",\"cluster\":");
            put(&mut out, &broker.cluster);
            out.push(b'}');
        }
        out.extend_from_slice(b"},\"clusterAddrTable\":");
        put(&mut out, &self.clusters);
        out.push(b'}');
        out.into()
    }
}

/// `TopicList`, the answer to 206.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TopicList {
    /// Address of the broker asked; only brokers set it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broker_addr: Option<String>,
    pub topic_list: Vec<String>,
}

impl TopicList {
    pub fn encode(&self) -> Bytes {
        encode(self)
    }
}
