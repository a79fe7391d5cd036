//! `kmsfs info`: what a volume says of itself. Needs no key, so nothing of it is verified.

use crate::cli::Info;
use crate::format::volume::{FORMAT, NameMode, hex};

use super::Outcome;

pub fn run(args: &Info) -> Outcome {
    let (_root, volume) = super::volume::read(&args.backing)?;
    let volume = volume.claimed();
    let names = match volume.names {
        NameMode::Encrypted => "encrypted",
        NameMode::Plain => "plain",
    };
    if args.json {
        let wrappings: Vec<_> = volume
            .wrappings
            .iter()
            .map(|w| serde_json::json!({ "provider": w.provider, "key_id": w.key_id, "key_version": w.key_version }))
            .collect();
        let json = serde_json::json!({
            "format": FORMAT, "volume_id": hex(&volume.id), "suite": volume.suite.name(), "names": names,
            "name_max": volume.name_max, "kms": { "provider": volume.kms.provider, "key_id": volume.kms.key_id },
            "files_per_data_key": volume.files_per_data_key, "volume_key": wrappings, "verified": false,
        });
        println!("{json:#}");
        return Ok(());
    }
    println!("format               {FORMAT}");
    println!("volume id            {}", hex(&volume.id));
    println!("suite                {}", volume.suite);
    println!("names                {names}, at most {} bytes as stored", volume.name_max);
    println!("CMK for new files    {} ({})", volume.kms.key_id, volume.kms.provider);
    println!("files per data key   {}", volume.files_per_data_key);
    for w in &volume.wrappings {
        println!("volume key wrapped   by {} version {} ({})", w.key_id, w.key_version, w.provider);
    }
    println!("not verified: that needs the volume key");
    Ok(())
}
