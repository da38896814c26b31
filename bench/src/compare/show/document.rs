//! Replaces the measured part of a document, and leaves the rest as people wrote it.

use anyhow::{Context as _, Result};

const BEGIN: &str = "<!-- measured: written by `cargo xtask bench --write` -->\n";
const END: &str = "<!-- end of what was measured -->\n";

pub fn replace_block(document: &str, block: &str) -> Result<String> {
    let (before, rest) = document
        .split_once(BEGIN)
        .with_context(|| format!("the document has no line {}", BEGIN.trim_end()))?;
    let (_, after) = rest
        .split_once(END)
        .with_context(|| format!("the document has no line {}", END.trim_end()))?;
    Ok(format!("{before}{BEGIN}\n{}\n\n{END}{after}", block.trim_end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_marks_changes_however_often() {
        let document = format!("# Title\n\n{BEGIN}old\n{END}\nThe end.\n");
        let once = replace_block(&document, "| new |\n").unwrap();
        assert_eq!(once, format!("# Title\n\n{BEGIN}\n| new |\n\n{END}\nThe end.\n"));
        assert_eq!(replace_block(&once, "| new |\n").unwrap(), once);
    }

    #[test]
    fn a_document_without_marks_is_left_alone() {
        assert!(replace_block("# Title\n", "x").is_err());
        assert!(replace_block(&format!("{BEGIN}x\n"), "x").is_err());
    }

    #[test]
    fn our_document_has_the_marks() {
        let document = include_str!("../../../../docs/performance.md");
        assert!(replace_block(document, "x").is_ok());
    }
}
