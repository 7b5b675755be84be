//! Writes what the fuzz targets begin with, where libFuzzer looks for it: corpora, and a dictionary. The same every time.

use std::{fs, io, path::Path};

use bennu_fuzz::targets::{ALL, seeds};

fn main() -> io::Result<()> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for target in ALL {
        let directory = corpus.join(target.name);
        fs::create_dir_all(&directory)?;
        for (at, seed) in (target.seeds)().iter().enumerate() {
            fs::write(directory.join(format!("seed-{at:04}")), seed)?;
        }
    }
    fs::write(corpus.join("wire.dict"), seeds::dictionary())
}
