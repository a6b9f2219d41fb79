//! A store of keys and values that speaks the protocol of Redis, in both of its versions.
//!
//! ```text
//! cargo run --release --example kv             # or: ... kv -- 127.0.0.1:0 --unix /tmp/kv --self-signed
//! redis-cli -p 6380 set greeting hello ex 60
//! redis-benchmark -p 6380 -q -P 16 -t ping,set,get,incr,lpush,rpush,lpop,rpop,sadd,hset,spop,lrange,mset
//! ```
//!
//! `protocol.rs` has the protocol, `data.rs` the data, `commands.rs` the commands on data, `channels.rs` the channels,
//! `clients.rs` the clients, and `sockets.rs` the sockets. The data is only in memory. There are no transactions (`MULTI`):
//! in Python, use `pipeline(transaction=False)`.

#[cfg(unix)]
mod channels;
#[cfg(unix)]
mod clients;
#[cfg(unix)]
mod commands;
#[path = "../common/mod.rs"]
mod common;
#[cfg(unix)]
mod data;
#[cfg(unix)]
mod protocol;
#[cfg(unix)]
mod sockets;

#[cfg(unix)]
use sockets::main;

#[cfg(not(unix))]
fn main() {
    eprintln!("this example needs Unix");
}
