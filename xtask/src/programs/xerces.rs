//! Xerces-C++ DOMPrint: parse a document into a tree and print it again, through virtual calls throughout.

use std::fmt::Write as _;
use std::fs;

use anyhow::Result;

use super::{Program, Source};
use crate::build::Tree;
use crate::variant::Variant;
use crate::workload::{Run, Setting, Word, Workload};

pub struct Xerces;

impl Program for Xerces {
    fn name(&self) -> &'static str {
        "xerces"
    }

    fn source(&self) -> Source {
        Source::Debian("xerces-c")
    }

    fn executable(&self) -> &'static str {
        "samples/DOMPrint"
    }

    fn recipe(&self) -> u32 {
        1
    }

    fn has(&self, variant: Variant) -> bool {
        // BOLT 19 loses the labels of calls that may throw when it inserts retpolines: "Emission failed".
        variant != Variant::Bolt
    }

    fn build(&self, tree: &Tree) -> Result<()> {
        let options =
            ["--disable-shared", "--disable-network", "--enable-transcoder-gnuiconv", "--disable-pretty-make"];
        tree.step("./configure", &options)?;
        tree.make(&["-C", "src"])?;
        tree.make(&["-C", "samples", "DOMPrint"])
    }

    fn prepare(&self, setting: &Setting) -> Result<()> {
        fs::write(setting.run.join("parts.xml"), parts(9_000))?;
        Ok(fs::write(setting.run.join("orders.xml"), document(32_000))?)
    }

    fn workloads(&self) -> Vec<Box<dyn Workload>> {
        vec![print("DOMPrint", "orders.xml")]
    }

    fn training(&self) -> Option<Box<dyn Workload>> {
        Some(print("DOMPrint parts", "parts.xml"))
    }
}

fn print(name: &'static str, file: &'static str) -> Box<dyn Workload> {
    Box::new(Run {
        name,
        executable: "samples/DOMPrint",
        arguments: vec![Word::Plain("-wfpp=on"), Word::Data(file)],
        environment: &[],
        is_answer: |_| true,
    })
}

/// What the peers are trained on: another shape of document, flatter, with entities and processing
/// instructions.
fn parts(count: u32) -> String {
    let mut text = String::from(
        "<?xml version=\"1.0\"?>\n<!DOCTYPE parts [<!ENTITY mm \"millimetres\"><!ELEMENT parts (part*)><!ELEMENT part (size, w)>\
         <!ATTLIST part n CDATA #REQUIRED><!ELEMENT size (#PCDATA)><!ELEMENT w (#PCDATA)>]>\n<parts>\n",
    );
    for n in 0..count {
        let (size, weight) = (n * 37 % 101, n * 53 % 997);
        // Writing to a String cannot fail.
        let _ = writeln!(text, "<part n=\"{n}\"><size>{size} &mm;</size><?check {weight}?><w>{weight}&lt;9</w></part>");
    }
    text + "</parts>\n"
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
