//! The manual page: one for the program and its command `serve`.

use std::io::{self, Write};

use clap::CommandFactory;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use super::{Cli, SECTIONS};

/// Writes the page in roff. `kms-mock/man/kms-mock.1` is what it writes.
pub fn write(out: &mut dyn Write) -> io::Result<()> {
    let mut program = Cli::command();
    program.build();
    let source = format!("kms-mock {}", program.get_version().unwrap_or_default());
    let serve = program.find_subcommand("serve").expect("the program can serve").clone();
    let (program, serve) = (Man::new(program).title("KMS-MOCK").source(source), Man::new(serve));
    program.render_title(out)?;
    program.render_name_section(out)?;
    serve.render_synopsis_section(out)?;
    serve.render_description_section(out)?;
    serve.render_options_section(out)?;
    notes().to_writer(out)
}

fn notes() -> Roff {
    let mut page = Roff::new();
    for (title, terms) in SECTIONS {
        page.control("SH", [title.to_uppercase().as_str()]);
        for (term, meaning) in terms {
            page.control("TP", []).text([bold(*term)]).text([roman(*meaning)]);
        }
    }
    page
}
