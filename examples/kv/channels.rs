//! Channels: which clients have subscribed to them, and how a message reaches these.

use std::collections::BTreeMap;

use socketserver::{ConnectionId, Result};

use super::commands::matches;
use super::data::Bytes;
use super::protocol::Replies;

/// Whether it is a pattern of channels, and its name.
pub(crate) type Channel = (bool, Bytes);

/// The clients of each channel, and whether they speak version 3 of the protocol. Patterns come last.
pub(crate) type Channels = BTreeMap<Channel, BTreeMap<ConnectionId, bool>>;

pub(crate) fn join(channels: &mut Channels, channel: &Channel, client: ConnectionId, is_resp3: bool) {
    channels.entry(channel.clone()).or_default().insert(client, is_resp3);
}

pub(crate) fn leave(channels: &mut Channels, channel: &Channel, client: ConnectionId) {
    let is_last = |clients: &mut BTreeMap<_, _>| clients.remove(&client).is_some() && clients.is_empty();
    if channels.get_mut(channel).is_some_and(is_last) {
        channels.remove(channel);
    }
}

/// Sends a message to all clients of a channel, and of the patterns that match it. Returns how many these are.
pub(crate) fn publish(
    channels: &Channels,
    name: &[u8],
    text: &[u8],
    mut send: impl FnMut(ConnectionId, &[u8]),
) -> Result<usize> {
    let exact = channels.get_key_value(&(false, name.into()));
    let patterns = channels.range((true, Bytes::new())..).filter(|((_, pattern), _)| matches(pattern, name));
    let mut count = 0;
    for ((is_pattern, pattern), clients) in exact.into_iter().chain(patterns) {
        let words: &[&[u8]] = if *is_pattern { &[b"pmessage", pattern, name, text] } else { &[b"message", name, text] };
        let mut messages = [Vec::new(), Vec::new()];
        for (out, is_resp3) in messages.iter_mut().zip([false, true]) {
            Replies { out, is_resp3 }.texts(b'>', words)?;
        }
        clients.iter().for_each(|(&client, &is_resp3)| send(client, &messages[usize::from(is_resp3)]));
        count += clients.len();
    }
    Ok(count)
}
