//! An SVG file, and what all plots look alike in: heading, colours, letters.

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::path::Path;

/// Who a colour stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// This crate, which is what the reader looks for.
    Ours,
    Reference,
    /// With its place among the contenders.
    Rival(usize),
}

/// The lines above a plot.
pub(super) struct Caption {
    pub(super) title: String,
    /// What was measured, or what the x axis is.
    pub(super) below: String,
    pub(super) machine: String,
}

pub(super) const INK: RGBColor = RGBColor(33, 37, 41);
pub(super) const PALE_INK: RGBColor = RGBColor(110, 117, 125);
pub(super) const GRID: RGBColor = RGBColor(225, 228, 232);

const OURS: RGBColor = RGBColor(214, 39, 40);
const REFERENCE: RGBColor = RGBColor(20, 20, 20);
/// For bars, whose names stand beside them.
const RIVAL: RGBColor = RGBColor(134, 160, 196);
/// For lines, which have to be told apart.
const RIVALS: [RGBColor; 10] = [
    RGBColor(31, 119, 180),
    RGBColor(44, 160, 44),
    RGBColor(230, 126, 14),
    RGBColor(148, 103, 189),
    RGBColor(23, 160, 175),
    RGBColor(140, 86, 75),
    RGBColor(200, 80, 160),
    RGBColor(130, 130, 20),
    RGBColor(90, 100, 110),
    RGBColor(70, 70, 200),
];

impl Role {
    pub(super) fn fill(self) -> RGBColor {
        match self {
            Role::Ours => OURS,
            Role::Reference => REFERENCE,
            Role::Rival(_) => RIVAL,
        }
    }

    pub(super) fn line(self) -> RGBColor {
        match self {
            Role::Rival(place) => RIVALS[place % RIVALS.len()],
            _ => self.fill(),
        }
    }

    pub(super) fn width(self) -> u32 {
        if self == Role::Ours { 3 } else { 1 }
    }
}

/// Half way to white.
pub(super) fn pale(RGBColor(red, green, blue): RGBColor) -> RGBColor {
    let pale = |part: u8| 128 + part / 2;
    RGBColor(pale(red), pale(green), pale(blue))
}

pub(super) type Point = (i32, i32);

pub(super) struct Canvas<'a> {
    area: DrawingArea<SVGBackend<'a>, Shift>,
    path: &'a Path,
}

/// Height of the heading.
pub(super) const TOP: i32 = 84;

impl<'a> Canvas<'a> {
    pub(super) fn new(path: &'a Path, width: i32, height: i32, caption: &Caption) -> Result<Canvas<'a>, String> {
        let area = SVGBackend::new(path, (width as u32, height as u32)).into_drawing_area();
        let canvas = Canvas { area, path };
        canvas.drawn(canvas.area.fill(&WHITE))?;
        canvas.text(&caption.title, (14, 18), 18, INK, HPos::Left)?;
        canvas.text(&caption.below, (14, 38), 13, INK, HPos::Left)?;
        canvas.text(&caption.machine, (14, 56), 11, PALE_INK, HPos::Left)?;
        Ok(canvas)
    }

    /// Centred vertically at `at`.
    pub(super) fn text(&self, text: &str, at: Point, size: u32, colour: RGBColor, side: HPos) -> Result<(), String> {
        let style = ("sans-serif", size).into_text_style(&self.area).color(&colour).pos(Pos::new(side, VPos::Center));
        self.drawn(self.area.draw(&Text::new(text, at, style)))
    }

    pub(super) fn line(&self, points: Vec<Point>, colour: RGBColor, width: u32) -> Result<(), String> {
        self.drawn(self.area.draw(&PathElement::new(points, colour.stroke_width(width))))
    }

    pub(super) fn rectangle(&self, corners: [Point; 2], colour: RGBColor) -> Result<(), String> {
        self.drawn(self.area.draw(&Rectangle::new(corners, colour.filled())))
    }

    pub(super) fn disc(&self, at: Point, radius: i32, colour: RGBColor) -> Result<(), String> {
        self.drawn(self.area.draw(&Circle::new(at, radius, colour.filled())))
    }

    pub(super) fn ring(&self, at: Point, radius: i32, colour: RGBColor) -> Result<(), String> {
        self.disc(at, radius, WHITE)?;
        self.drawn(self.area.draw(&Circle::new(at, radius, colour.stroke_width(2))))
    }

    pub(super) fn triangle(&self, at: Point, radius: i32, colour: RGBColor) -> Result<(), String> {
        self.drawn(self.area.draw(&TriangleMarker::new(at, radius, colour.filled())))
    }

    pub(super) fn finish(self) -> Result<(), String> {
        self.drawn(self.area.present())
    }

    fn drawn<T, E: std::fmt::Display>(&self, result: Result<T, E>) -> Result<T, String> {
        result.map_err(|error| format!("{}: {error}", self.path.display()))
    }
}
