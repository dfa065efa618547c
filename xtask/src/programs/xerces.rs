//! Xerces-C++ DOMPrint: parse a document into a tree and print it again, through virtual calls throughout.

use std::fmt::Write as _;
use std::fs;

use anyhow::Result;

use super::Program;
use crate::build::Tree;
use crate::workload::{Run, Setting, Word, Workload};

pub struct Xerces;

impl Program for Xerces {
    fn name(&self) -> &'static str {
        "xerces"
    }

    fn source(&self) -> &'static str {
        "xerces-c"
    }

    fn recipe(&self) -> u32 {
        1
    }

    fn build(&self, tree: &Tree) -> Result<()> {
        let options =
            ["--disable-shared", "--disable-network", "--enable-transcoder-gnuiconv", "--disable-pretty-make"];
        tree.step("./configure", &options)?;
        tree.make(&["-C", "src"])?;
        tree.make(&["-C", "samples", "DOMPrint"])
    }

    fn prepare(&self, setting: &Setting) -> Result<()> {
        Ok(fs::write(setting.run.join("orders.xml"), document(32_000))?)
    }

    fn workloads(&self) -> Vec<Box<dyn Workload>> {
        vec![Box::new(Run {
            name: "DOMPrint",
            executable: "samples/DOMPrint",
            arguments: vec![Word::Plain("-wfpp=on"), Word::Data("orders.xml")],
            environment: &[],
            is_answer: |_| true,
        })]
    }
}

/// A document with nesting, attributes, entities, comments and character data.
fn document(orders: u32) -> String {
    let mut text = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<orders xmlns=\"urn:example:orders\">\n");
    for n in 0..orders {
        let (part, count, price) = (n * 7919 % 1009, n % 9 + 1, n * 31 % 997);
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "  <order id=\"o{n}\" state=\"{}\">\n    <buyer>Buyer &amp; Sons {part}</buyer>\n    <!-- line {n} -->\n    \
             <item part=\"p{part}\" count=\"{count}\"><price currency=\"EUR\">{price}.50</price>\
             <note><![CDATA[a < b]]></note></item>\n  </order>\n",
            if n % 3 == 0 { "open" } else { "paid" },
        );
    }
    text + "</orders>\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_closes_what_it_opens() {
        let text = document(10);
        for name in ["order ", "buyer", "item ", "price ", "note"] {
            let closed = format!("</{}>", name.trim_end());
            assert_eq!(text.matches(&format!("<{name}")).count(), 10, "{name}");
            assert_eq!(text.matches(&closed).count(), 10, "{name}");
        }
    }
}
