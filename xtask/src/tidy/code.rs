//! A source without its comments and texts, so that only code is judged. Lines stay where they are.

/// Replaces the insides of comments, string and character literals by spaces.
pub fn only(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        let length = blank_length(&code, rest);
        if length == 0 {
            code.push(next);
            rest = &rest[next.len_utf8()..];
        } else {
            let (blanked, after) = rest.split_at(length);
            code.extend(blanked.chars().map(|char| if char == '\n' { '\n' } else { ' ' }));
            rest = after;
        }
    }
    code
}

/// The words of a line of code, with the character that follows each.
pub fn words(line: &str) -> impl Iterator<Item = (&str, Option<char>)> {
    let is_word = |char: char| char.is_alphanumeric() || char == '_';
    line.split_inclusive(move |char: char| !is_word(char)).filter_map(move |part| {
        let word = part.trim_end_matches(|char: char| !is_word(char));
        let follows = part[word.len()..].chars().next();
        (!word.is_empty()).then_some((word, follows))
    })
}

/// How much of `rest` is no code; 0 if it begins with code.
fn blank_length(before: &str, rest: &str) -> usize {
    let after_word = before.chars().next_back().is_some_and(|char| char.is_alphanumeric());
    let hashes = |prefix: &str| {
        let after = rest.strip_prefix(prefix)?;
        let opened = after.trim_start_matches('#');
        opened.starts_with('"').then(|| after.len() - opened.len())
    };
    if rest.starts_with("//") {
        rest.find('\n').unwrap_or(rest.len())
    } else if rest.starts_with("/*") {
        block_comment(rest)
    } else if let Some(inside) = rest.strip_prefix('"') {
        1 + quoted(inside, '"')
    } else if rest.starts_with('\'') {
        character(rest)
    } else if let Some(count) = hashes("r").or_else(|| hashes("br")).filter(|_| !after_word) {
        let end = format!("\"{}", "#".repeat(count));
        let start = rest.find('"').map_or(rest.len(), |at| at + 1);
        rest[start..].find(&end).map_or(rest.len(), |at| start + at + end.len())
    } else {
        0
    }
}

fn block_comment(rest: &str) -> usize {
    let mut depth = 0_u32;
    let mut at = 0;
    while at < rest.len() {
        if rest[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += rest[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

/// Up to and with the closing `quote`.
fn quoted(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, char) in rest.char_indices() {
        match char {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if char == quote => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// A character literal, or 0 for a lifetime.
fn character(rest: &str) -> usize {
    let mut inside = rest[1..].chars();
    match (inside.next(), inside.next()) {
        (Some('\\'), _) => 1 + quoted(&rest[1..], '\''),
        (Some(char), Some('\'')) => 2 + char.len_utf8(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has(text: &str, word: &str) -> bool {
        only(text).lines().any(|line| words(line).any(|(found, _)| found == word))
    }

    #[test]
    fn code_is_kept() {
        assert!(has("use rustls::ClientConfig;", "rustls"));
        assert!(has("fn a<'a>(b: &'a str) { unsafe { c() } }", "unsafe"));
        assert!(has("let quote = '\"'; unsafe {}", "unsafe"));
        assert!(has("let escaped = \"\\\"\"; unsafe {}", "unsafe"));
        assert!(has("let raw = r#\"\"\"#; unsafe {}", "unsafe"));
        assert!(has("/* /* nested */ */ unsafe {}", "unsafe"));
        assert_eq!(words("dbg!(a)").next(), Some(("dbg", Some('!'))));
    }

    #[test]
    fn comments_and_texts_are_not() {
        for text in [
            "// rustls",
            "/* rustls\n rustls */",
            "let a = \"rustls\";",
            "let a = \"\\\" rustls\";",
            "let a = r#\"\" rustls\"#;",
            "let a = br\"rustls\";",
        ] {
            assert!(!has(text, "rustls"), "{text}");
        }
    }

    #[test]
    fn lines_stay_where_they_are() {
        assert_eq!(only("a\n/* ü\n */ b\n\"c\nd\" e"), "a\n    \n    b\n  \n   e");
    }

    #[test]
    fn the_end_of_a_longer_word_is_no_word() {
        assert!(has("(nix::sched)", "nix"));
        assert!(!has("use std::os::unix::fs; aya_nix()", "nix"));
    }
}
