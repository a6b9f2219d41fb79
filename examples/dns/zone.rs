//! A zone: which records answer a question, RFC 1034 section 4.3.2.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{LowerName, RData, Record, RecordSet, RecordType, RrKey};
use hickory_proto::serialize::txt::Parser;

pub(crate) struct Zone {
    origin: LowerName,
    records: BTreeMap<RrKey, RecordSet>,
    /// All names, also those that only have other names below them.
    names: HashSet<LowerName>,
}

impl Zone {
    /// Reads a zone file, which names its origin with `$ORIGIN`.
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
        let (origin, records) = Parser::new(text, None, None).parse().map_err(|error| error.to_string())?;
        let origin = LowerName::new(&origin);
        let mut names = HashSet::from([origin.clone()]);
        for key in records.keys() {
            let mut name = key.name.clone();
            if !origin.zone_of(&name) {
                return Err(format!("{name} is not below {origin}"));
            }
            while names.insert(name.clone()) {
                name = name.base_name();
            }
        }
        let zone = Zone { origin, records, names };
        match zone.get(&zone.origin, RecordType::SOA) {
            Some(_) => Ok(zone),
            None => Err(format!("{} has no record SOA", zone.origin)),
        }
    }

    pub(crate) fn has(&self, name: &LowerName) -> bool {
        self.origin.zone_of(name)
    }

    fn get(&self, name: &LowerName, kind: RecordType) -> Option<impl Iterator<Item = Record> + use<>> {
        let set = self.records.get(&RrKey::new(name.clone(), kind))?;
        Some(set.records_without_rrsigs().cloned().collect::<Vec<_>>().into_iter())
    }

    /// Adds to a response what answers its question.
    pub(crate) fn answer(&self, response: &mut Message) {
        let (mut asked, kind) = (response.queries[0].name().clone(), response.queries[0].query_type());
        response.metadata.authoritative = true;
        for _ in 0..CHAIN_MAX {
            let name = LowerName::new(&asked);
            if !self.has(&name) || self.refer(&name, kind, response) {
                return;
            }
            let Some(owner) = self.owner(&name) else {
                response.metadata.response_code = ResponseCode::NXDomain;
                break;
            };
            // A wildcard answers under the name that was asked for.
            let named = |mut record: Record| {
                record.name.clone_from(&asked);
                record
            };
            if let Some(found) = self.get(&owner, kind) {
                response.answers.extend(found.map(named));
                return;
            }
            let Some(alias) = self.get(&owner, RecordType::CNAME).and_then(|mut found| found.next()) else { break };
            let RData::CNAME(target) = &alias.data else { break };
            let target = target.0.clone();
            response.answers.push(named(alias));
            asked = target;
        }
        // How long it may be remembered that there is nothing: RFC 2308.
        for mut record in self.get(&self.origin, RecordType::SOA).into_iter().flatten() {
            if let RData::SOA(soa) = &record.data {
                record.ttl = record.ttl.min(soa.minimum);
            }
            response.authorities.push(record);
        }
    }

    /// If the name has been delegated to other servers, names these and their addresses.
    fn refer(&self, name: &LowerName, kind: RecordType, response: &mut Message) -> bool {
        let above = std::iter::successors(Some(name.clone()), |name| Some(name.base_name()));
        let below_origin = above.take_while(|name| *name != self.origin);
        // The zone above has the record DS of the zone below.
        let cuts = below_origin.filter(|above| kind != RecordType::DS || above != name);
        let Some(servers) = cuts.filter_map(|name| self.get(&name, RecordType::NS)).last() else { return false };
        response.metadata.authoritative = !response.answers.is_empty();
        for server in servers {
            if let RData::NS(target) = &server.data {
                let target = LowerName::new(target);
                for kind in [RecordType::A, RecordType::AAAA] {
                    response.additionals.extend(self.get(&target, kind).into_iter().flatten());
                }
            }
            response.authorities.push(server);
        }
        true
    }

    /// The name itself, or the wildcard that stands for it.
    fn owner(&self, name: &LowerName) -> Option<LowerName> {
        if self.names.contains(name) {
            return Some(name.clone());
        }
        let above = std::iter::successors(Some(name.clone()), |name| Some(name.base_name()));
        let child = above.take_while(|name| !self.names.contains(name)).last()?;
        Some(child.into_wildcard()).filter(|wildcard| self.names.contains(wildcard))
    }
}

/// Aliases of aliases that are followed.
const CHAIN_MAX: usize = 8;
