//! A plot for each scenario: the server CPU of all contenders, as a multiple of the reference's.

use crate::figures::Figure;
use crate::results::Results;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::error::Error;
use std::path::{Path, PathBuf};

/// Writes `BENCHMARK-SCENARIO.svg` for each scenario, and returns the files.
pub(super) fn write(results: &Results, directory: &Path) -> Result<Vec<PathBuf>, String> {
    let mut files = Vec::new();
    for scenario in &results.scenarios {
        let bars: Vec<(&str, f64)> = results
            .contenders
            .iter()
            .filter_map(|(name, _)| Some((name.as_str(), Figure::ServerCpu.ratio(results, name, scenario)?.median)))
            .collect();
        if !bars.is_empty() {
            let title_of_x = format!("server CPU for each {}, × the reference's", scenario.item());
            let file = directory.join(format!("{}-{}.svg", results.benchmark.name(), scenario.key));
            draw(&file, &scenario.title, &title_of_x, &bars)
                .map_err(|error| format!("cannot write {}: {error}", file.display()))?;
            files.push(file);
        }
    }
    Ok(files)
}

const FONT: &str = "sans-serif";
const WIDTH: u32 = 720;
const BAR_HEIGHT: u32 = 26;
const OURS: RGBColor = RGBColor(0xd0, 0x4a, 0x1f);
const OTHERS: RGBColor = RGBColor(0x6a, 0x8c, 0xaf);

/// The first one on top.
pub(crate) fn draw(file: &Path, title: &str, title_of_x: &str, bars: &[(&str, f64)]) -> Result<(), Box<dyn Error>> {
    let root = SVGBackend::new(file, (WIDTH, BAR_HEIGHT * bars.len() as u32 + 100)).into_drawing_area();
    root.fill(&WHITE)?;
    let most = bars.iter().map(|(_, value)| *value).fold(1.0, f64::max);
    let name = |place: &i32| bars.get(place.unsigned_abs() as usize).map_or(String::new(), |bar| bar.0.to_owned());
    let mut chart = ChartBuilder::on(&root)
        .caption(title, (FONT, 20))
        .margin(10)
        .x_label_area_size(44)
        .y_label_area_size(130)
        .build_cartesian_2d(0.0..most * 1.1, (1 - bars.len() as i32..0).into_segmented())?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .light_line_style(TRANSPARENT)
        .label_style((FONT, 16))
        .y_labels(bars.len() + 1)
        .y_label_formatter(&|segment| match segment {
            SegmentValue::CenterOf(place) => name(place),
            _ => String::new(),
        })
        .x_desc(title_of_x)
        .draw()?;
    for (place, (name, value)) in bars.iter().enumerate() {
        let color = if name.starts_with("socketserver") { OURS } else { OTHERS };
        let row = -(place as i32);
        let corners = [(0.0, SegmentValue::Exact(row)), (*value, SegmentValue::Exact(row + 1))];
        let mut bar = Rectangle::new(corners, color.filled());
        bar.set_margin(4, 4, 0, 0);
        chart.draw_series([bar])?;
        let style = TextStyle::from((FONT, 16)).pos(Pos::new(HPos::Left, VPos::Center));
        let label = Text::new(format!(" {value:.2}"), (*value, SegmentValue::CenterOf(row)), style);
        chart.draw_series([label])?;
    }
    root.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::figures::tests::sample;

    #[test]
    fn a_plot_names_its_contenders() {
        let directory = tempfile::tempdir().expect("a directory");
        let files = super::write(&sample(), directory.path()).expect("plots");
        assert_eq!(files, [directory.path().join("echo-ping.svg")]);
        let text = std::fs::read_to_string(&files[0]).expect("SVG");
        assert!(text.starts_with("<svg") && text.contains("epoll") && text.contains("1.75"), "{text}");
    }
}
