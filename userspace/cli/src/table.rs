//! Tables without lines, as wide as they need: only a terminal makes them narrower.

use comfy_table::{Cell, Color, ContentArrangement, presets};

use crate::paint::Tone;

pub struct Table(comfy_table::Table);

impl Table {
    pub fn new(header: &[&str]) -> Self {
        let mut table = comfy_table::Table::new();
        table.load_style(presets::NOTHING);
        table.set_content_arrangement(ContentArrangement::Dynamic);
        // Colors are taken off when the text is written. Padding has none, so that it can be cut.
        table.enforce_styling();
        table.style_text_only();
        table.set_header(header.iter().map(|name| cell(*name, Tone::Plain)));
        Self(table)
    }

    /// With the column in which the node stands, if those of several are shown.
    pub fn of_nodes(are_several: bool, header: &[&str]) -> Self {
        let node = are_several.then_some("NODE");
        Self::new(&node.into_iter().chain(header.iter().copied()).collect::<Vec<_>>())
    }

    /// A row of a table of nodes.
    pub fn row_of(&mut self, node: Option<&str>, cells: impl IntoIterator<Item = Cell>) {
        self.row(node.map(plain).into_iter().chain(cells));
    }

    pub fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.0.add_row(cells.into_iter().collect::<Vec<_>>());
    }

    /// The rows with a header; nothing at all without rows.
    pub fn text(mut self) -> String {
        if self.0.is_empty() {
            return String::new();
        }
        for column in self.0.column_iter_mut() {
            column.set_padding((0, 2));
        }
        self.0.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
    }
}

pub fn cell(text: impl Into<String>, tone: Tone) -> Cell {
    let cell = Cell::new(text.into());
    match tone {
        Tone::Plain => cell,
        Tone::Good => cell.fg(Color::DarkGreen),
        Tone::Warning => cell.fg(Color::DarkYellow),
        Tone::Bad => cell.fg(Color::DarkRed),
        Tone::Faint => cell.fg(Color::DarkGrey),
    }
}

pub fn plain(text: impl Into<String>) -> Cell {
    cell(text, Tone::Plain)
}
