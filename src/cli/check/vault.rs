//! Can the zones be written, and is the key the right one?

use bytes::Bytes;

use super::line::Lines;
use crate::cli::open::Place;
use crate::clock;
use crate::config::Settings;
use crate::ids::ClusterName;
use crate::vault::{Access, Error, Vault};
use crate::zones::{self, ZoneOptions, ZoneSet};

pub(super) async fn check(lines: &mut Lines, settings: &Settings) {
    let options = match settings.zone_options() {
        Ok(options) => options,
        Err(error) => return lines.failed("zones", &error),
    };
    let probes = options.iter().map(|zone| probe(zone, &settings.cluster));
    for (zone, probed) in options.iter().zip(futures::future::join_all(probes).await) {
        let subject = format!("zone {}", zone.name);
        match probed {
            Ok(()) => lines.ok(&subject, format!("{}: writes, reads and deletes", zone.url)),
            Err(error) => lines.failed(&subject, &error),
        }
    }
    let found = format!("{} of {} zones", settings.write_quorum, options.len());
    match settings.write_quorum >= 2 {
        true => lines.ok("write quorum", found),
        false => lines.advice(
            "write quorum",
            found,
            "what one zone alone holds is lost with it: three zones and a quorum of two are best",
        ),
    }
    key(lines, settings).await;
}

/// Makes, reads and deletes an object in one zone.
async fn probe(zone: &ZoneOptions, cluster: &ClusterName) -> Result<(), zones::Error> {
    let set = ZoneSet::open(vec![zone.clone()], 1)?;
    // No name of the vault's: whatever reads the vault passes over one that a crash leaves behind.
    let name = format!("{cluster}/probe/{:016x}", u64::from_be_bytes(clock::random()));
    let bytes = Bytes::from(format!("pitrus check, {}", clock::now()));
    set.put(&name, bytes.clone()).await?;
    let read = set.get(&name).await;
    set.delete(&name).await?;
    match read? == bytes {
        true => Ok(()),
        false => Err(zones::Error::Clash { name, zone: zone.name.clone() }),
    }
}

async fn key(lines: &mut Lines, settings: &Settings) {
    let master = match settings.master_key() {
        Ok(master) => master,
        Err(error) => return lines.failed("key", &error),
    };
    let id = master.id();
    let zones = match Place::of(settings).and_then(|place| place.zones()) {
        Ok(zones) => zones,
        // Said already, zone by zone.
        Err(_) => return,
    };
    match Vault::open(zones, master, settings.cluster.clone(), Access::Read).await {
        Ok(_) => lines.ok("key", format!("{id} opens what cluster {} has stored", settings.cluster)),
        Err(Error::NoVault { .. }) => lines.ok("key", format!("{id}; nothing is stored yet")),
        Err(error) => lines.failed("key", &error),
    }
}
