//! A zone: which records answer a question, RFC 1034 section 4.3.2.

use std::collections::HashMap;
use std::path::Path;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{LowerName, RData, Record, RecordType};
use hickory_proto::serialize::txt::Parser;

pub(crate) struct Zone {
    origin: LowerName,
    /// All names with their records. A name that only has other names below it has none.
    names: HashMap<LowerName, Records>,
}

type Records = HashMap<RecordType, Vec<Record>>;

impl Zone {
    /// Reads a zone file, which names its origin with `$ORIGIN`.
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
        let (origin, records) = Parser::new(text, None, None).parse().map_err(|error| error.to_string())?;
        let mut zone = Zone { origin: LowerName::new(&origin), names: HashMap::new() };
        for (key, records) in records {
            if !zone.has(&key.name) {
                return Err(format!("{} is not below {origin}", key.name));
            }
            for above in up(&key.name).take_while(|above| *above != zone.origin) {
                zone.names.entry(above).or_default();
            }
            let records = records.records_without_rrsigs().cloned().collect();
            zone.names.entry(key.name).or_default().insert(key.record_type, records);
        }
        match zone.get(&zone.origin, RecordType::SOA) {
            [_] => Ok(zone),
            _ => Err(format!("{origin} has no record SOA")),
        }
    }

    pub(crate) fn has(&self, name: &LowerName) -> bool {
        self.origin.zone_of(name)
    }

    fn get(&self, name: &LowerName, kind: RecordType) -> &[Record] {
        self.names.get(name).and_then(|records| records.get(&kind)).map_or(&[], |records| records)
    }

    /// Adds to a response what answers its question.
    pub(crate) fn answer(&self, response: &mut Message) -> ResponseCode {
        let (mut asked, kind) = (response.queries[0].name().clone(), response.queries[0].query_type());
        let mut code = ResponseCode::NoError;
        response.metadata.authoritative = true;
        for _ in 0..CHAIN_MAX {
            let name = LowerName::new(&asked);
            if !self.has(&name) || self.refer(&name, kind, response) {
                return code; // The client asks other servers for the rest.
            }
            let Some(records) = self.records(&name) else {
                code = ResponseCode::NXDomain;
                break;
            };
            // A wildcard answers under the name that was asked for.
            let named = |record: &Record| Record::from_rdata(asked.clone(), record.ttl, record.data.clone());
            if let Some(found) = records.get(&kind) {
                response.answers.extend(found.iter().map(named));
                return code;
            }
            let Some(alias) = records.get(&RecordType::CNAME).and_then(|found| found.first()) else { break };
            let RData::CNAME(target) = &alias.data else { break };
            response.answers.push(named(alias));
            asked = target.0.clone();
        }
        // How long it may be remembered that there is nothing: RFC 2308.
        for record in self.get(&self.origin, RecordType::SOA) {
            let RData::SOA(soa) = &record.data else { continue };
            let ttl = record.ttl.min(soa.minimum);
            response.authorities.push(Record::from_rdata(record.name.clone(), ttl, record.data.clone()));
        }
        code
    }

    /// If the name belongs to a part of the zone that other servers have, adds these servers and their addresses to the
    /// response. Returns whether it does.
    fn refer(&self, name: &LowerName, kind: RecordType, response: &mut Message) -> bool {
        let Some(servers) = self.delegation(name, kind) else { return false };
        // The aliases before this name, if there are any, are answers of this zone.
        response.metadata.authoritative = !response.answers.is_empty();
        for server in servers {
            response.authorities.push(server.clone());
            let RData::NS(target) = &server.data else { continue };
            let addresses = [RecordType::A, RecordType::AAAA].map(|kind| self.get(&LowerName::new(target), kind));
            response.additionals.extend(addresses.into_iter().flatten().cloned());
        }
        true
    }

    /// The records NS where the zone has been given to other servers: at the name, or at the highest name above it that
    /// has some, without the origin.
    fn delegation(&self, name: &LowerName, kind: RecordType) -> Option<&[Record]> {
        let below_origin = up(name).take_while(|above| *above != self.origin);
        // The record DS of the name itself is one of this zone, and not one of the other servers.
        let cuts = below_origin.filter(|above| kind != RecordType::DS || above != name);
        let servers = cuts.map(|name| self.get(&name, RecordType::NS));
        servers.filter(|servers| !servers.is_empty()).last()
    }

    /// The records of a name. If the zone has no such name, a wildcard stands for it: with `wild.example.com.` and
    /// without `b.wild.example.com.`, the name `a.b.wild.example.com.` has the records of `*.wild.example.com.`
    fn records(&self, name: &LowerName) -> Option<&Records> {
        let missing = up(name).take_while(|above| !self.names.contains_key(above));
        match missing.last() {
            Some(highest) => self.names.get(&highest.into_wildcard()),
            None => self.names.get(name),
        }
    }
}

/// A name, and the names above it.
fn up(name: &LowerName) -> impl Iterator<Item = LowerName> + use<> {
    std::iter::successors(Some(name.clone()), |name| Some(name.base_name()))
}

/// Aliases of aliases that are followed.
const CHAIN_MAX: usize = 8;
