//! The three kinds of plots: lines over a number, bars, and ranges of latencies.

use super::super::numbers::without_zeros;
use super::axis::{Axis, Scale};
use super::canvas::{Canvas, Caption, GRID, INK, PALE_INK, Point, Role, TOP, pale};
use plotters::style::text_anchor::HPos;
use std::path::Path;

pub(super) struct Line {
    pub(super) name: String,
    pub(super) role: Role,
    pub(super) points: Vec<(f64, f64)>,
}

pub(super) struct Bar {
    pub(super) name: String,
    pub(super) role: Role,
    pub(super) value: f64,
}

pub(super) struct Range {
    pub(super) name: String,
    pub(super) role: Role,
    /// p50, p99, p99.9, max.
    pub(super) marks: [f64; 4],
}

/// As a figure is written on an axis or beside a bar.
type Show<'a> = &'a dyn Fn(f64) -> String;

const WIDTH: i32 = 860;
/// Room for names on the left of bars and ranges.
const NAMES: i32 = 150;
/// Of one bar or range.
const ROW: i32 = 24;
/// Below the plot, for the figures of the axis.
const BOTTOM: i32 = 30;

/// Both axes are logarithmic. Names stand at the right ends of their lines.
pub(super) fn lines(path: &Path, caption: &Caption, lines: &[Line], show: Show<'_>) -> Result<(), String> {
    let height = 520;
    let (left, right, bottom) = (80, WIDTH - 170, height - 56);
    let below = Caption { title: caption.title.clone(), below: String::new(), machine: String::new() };
    let canvas = Canvas::new(path, WIDTH, height, &below)?;
    canvas.text(&caption.machine, (14, 40), 11, PALE_INK, HPos::Left)?;
    let points = || lines.iter().flat_map(|line| &line.points);
    let x = Axis::new(Scale::Log, points().map(|point| point.0), left, right);
    let y = Axis::new(Scale::Log, points().map(|point| point.1), bottom, TOP);

    for tick in y.ticks() {
        let place = y.place(tick);
        canvas.line(vec![(left, place), (right, place)], GRID, 1)?;
        canvas.text(&without_zeros(&show(tick)), (left - 8, place), 12, PALE_INK, HPos::Right)?;
    }
    // Just where something was measured.
    let mut levels: Vec<f64> = points().map(|point| point.0).collect();
    levels.sort_by(f64::total_cmp);
    levels.dedup();
    for level in levels {
        let place = x.place(level);
        canvas.line(vec![(place, TOP), (place, bottom)], GRID, 1)?;
        let text = crate::benchmarks::grouped(level as usize);
        canvas.text(&text, (place, bottom + 14), 12, PALE_INK, HPos::Center)?;
    }
    canvas.text(&caption.below, ((left + right) / 2, bottom + 36), 13, INK, HPos::Center)?;

    let placed =
        |line: &Line| -> Vec<Point> { line.points.iter().map(|point| (x.place(point.0), y.place(point.1))).collect() };
    // This crate's last, above the others.
    let (ours, others): (Vec<&Line>, Vec<&Line>) = lines.iter().partition(|line| line.role == Role::Ours);
    for line in others.into_iter().chain(ours) {
        let (colour, width) = (line.role.line(), line.role.width() + u32::from(line.role == Role::Reference));
        for point in placed(line) {
            canvas.disc(point, 2 + width as i32, colour)?;
        }
        canvas.line(placed(line), colour, width)?;
    }
    let mut ends: Vec<(Point, &Line)> = lines.iter().filter_map(|line| Some((*placed(line).last()?, line))).collect();
    ends.sort_by_key(|((_, y), _)| *y);
    let wanted: Vec<i32> = ends.iter().map(|((_, y), _)| *y).collect();
    for (((end_x, end_y), line), place) in ends.into_iter().zip(apart(&wanted, 15, TOP, bottom)) {
        let colour = line.role.line();
        canvas.line(vec![(end_x, end_y), (right + 6, end_y), (right + 20, place)], pale(colour), 1)?;
        canvas.text(&line.name, (right + 24, place), 12, colour, HPos::Left)?;
    }
    canvas.finish()
}

/// Moves places, which are in order, as little as needed to be `distance` apart between `top` and `bottom`.
fn apart(wanted: &[i32], distance: i32, top: i32, bottom: i32) -> Vec<i32> {
    let mut places = wanted.to_vec();
    let mut least = top;
    for place in &mut places {
        *place = (*place).max(least);
        least = *place + distance;
    }
    let mut most = bottom;
    for place in places.iter_mut().rev() {
        *place = (*place).min(most);
        most = *place - distance;
    }
    places
}

pub(super) fn bars(path: &Path, caption: &Caption, bars: &[Bar], scale: Scale, show: Show<'_>) -> Result<(), String> {
    let values = bars.iter().map(|bar| bar.value);
    let (canvas, axis, bottom) = rows(path, caption, bars.len(), scale, values, 90, show)?;
    for (i, bar) in bars.iter().enumerate() {
        let middle = row(i);
        let (from, to) = (NAMES, axis.place(bar.value).max(NAMES + 2));
        name(&canvas, &bar.name, bar.role, middle)?;
        canvas.rectangle([(from, middle - 8), (to, middle + 8)], bar.role.fill())?;
        canvas.text(&show(bar.value), (to + 6, middle), 12, INK, HPos::Left)?;
    }
    canvas.line(vec![(NAMES, TOP), (NAMES, bottom)], PALE_INK, 1)?;
    canvas.finish()
}

pub(super) fn ranges(path: &Path, caption: &Caption, ranges: &[Range], show: Show<'_>) -> Result<(), String> {
    let values = ranges.iter().flat_map(|range| range.marks);
    let (canvas, axis, _) = rows(path, caption, ranges.len(), Scale::Log, values, 30, show)?;
    let mark = |kind: usize, at: Point, role: Role| match kind {
        0 => canvas.disc(at, 5, role.fill()),
        1 => canvas.ring(at, 4, role.fill()),
        2 => canvas.triangle(at, 6, role.fill()),
        _ => canvas.line(vec![(at.0, at.1 - 6), (at.0, at.1 + 6)], role.fill(), 2),
    };
    for (i, range) in ranges.iter().enumerate() {
        let middle = row(i);
        name(&canvas, &range.name, range.role, middle)?;
        let places = range.marks.map(|value| (axis.place(value), middle));
        canvas.line(vec![places[0], places[3]], range.role.fill(), 1)?;
        for (kind, place) in places.into_iter().enumerate().rev() {
            mark(kind, place, range.role)?;
        }
    }
    for (kind, text) in ["p50", "p99", "p99.9", "max"].into_iter().enumerate() {
        let at = (WIDTH - 240 + 58 * kind as i32, TOP - 46);
        mark(kind, at, Role::Reference)?;
        canvas.text(text, (at.0 + 10, at.1), 12, INK, HPos::Left)?;
    }
    canvas.finish()
}

/// A canvas for so many rows with a horizontal axis, and where it ends below.
fn rows<'a>(
    path: &'a Path,
    caption: &Caption,
    count: usize,
    scale: Scale,
    values: impl IntoIterator<Item = f64>,
    room_right: i32,
    show: Show<'_>,
) -> Result<(Canvas<'a>, Axis, i32), String> {
    let bottom = TOP + ROW * count as i32;
    let canvas = Canvas::new(path, WIDTH, bottom + BOTTOM, caption)?;
    let axis = Axis::new(scale, values, NAMES, WIDTH - room_right);
    for tick in axis.ticks() {
        let place = axis.place(tick);
        canvas.line(vec![(place, TOP), (place, bottom)], GRID, 1)?;
        canvas.text(&without_zeros(&show(tick)), (place, bottom + 12), 11, PALE_INK, HPos::Center)?;
    }
    Ok((canvas, axis, bottom))
}

/// The middle of a row.
fn row(i: usize) -> i32 {
    TOP + ROW * i as i32 + ROW / 2
}

fn name(canvas: &Canvas<'_>, name: &str, role: Role, middle: i32) -> Result<(), String> {
    let colour = if role == Role::Ours { role.fill() } else { INK };
    canvas.text(name, (NAMES - 8, middle), 13, colour, HPos::Right)
}

#[cfg(test)]
mod tests {
    use super::apart;

    #[test]
    fn names_do_not_cover_each_other() {
        assert_eq!(apart(&[10, 50, 90], 15, 0, 100), [10, 50, 90]);
        assert_eq!(apart(&[10, 11, 12], 15, 0, 100), [10, 25, 40]);
        assert_eq!(apart(&[98, 99, 100], 15, 0, 100), [70, 85, 100]);
    }
}
