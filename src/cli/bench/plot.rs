//! Draws latencies by percentile as SVG.
//!
//! - Takes: histograms of nanoseconds. Gives: a file.
//! - Shape: x is the percentile, stretched towards 100 (50, 90, 99, 99.9 stand at equal distances), y is
//!   milliseconds, logarithmic.

use std::path::Path;

use anyhow::anyhow;
use hdrhistogram::Histogram;
use plotters::prelude::{
    BLUE, ChartBuilder, IntoDrawingArea as _, IntoLogRange as _, LineSeries, PathElement, RED,
    RGBColor, SVGBackend, WHITE,
};

/// Width and height in pixels.
const SIZE: (u32, u32) = (900, 500);

/// Nines of the right edge: 99.999 %.
const NINES_MAX: f64 = 5.0;

const COLOURS: [RGBColor; 2] = [BLUE, RED];

/// Writes the plot of all `latencies`; without any there is nothing to draw.
pub(super) fn draw(
    file: &Path,
    title: &str,
    latencies: &[(String, Histogram<u64>)],
) -> anyhow::Result<()> {
    if latencies.is_empty() {
        return Err(anyhow!("this scenario has no latencies to draw"));
    }
    let failed = |error: &dyn std::fmt::Display| anyhow!("cannot draw {}: {error}", file.display());
    let low = latencies.iter().map(|(_, histogram)| histogram.min()).min().unwrap_or(1);
    let high = latencies.iter().map(|(_, histogram)| histogram.max()).max().unwrap_or(1);
    let ms = |nanoseconds: u64| (nanoseconds.max(1_000) as f64) / 1e6;
    let root = SVGBackend::new(file, SIZE).into_drawing_area();
    root.fill(&WHITE).map_err(|error| failed(&error))?;
    let mut chart = ChartBuilder::on(&root)
        .caption(title, ("sans-serif", 20))
        .margin(15)
        .x_label_area_size(40)
        .y_label_area_size(70)
        .build_cartesian_2d(0.0..NINES_MAX, (ms(low)..ms(high) * 1.2).log_scale())
        .map_err(|error| failed(&error))?;
    chart
        .configure_mesh()
        .x_desc("percentile")
        .y_desc("milliseconds")
        .x_labels(6)
        .x_label_formatter(&|nines| percentile_label(*nines))
        .draw()
        .map_err(|error| failed(&error))?;
    for (index, (name, histogram)) in latencies.iter().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        let points = (0..=100).map(|step| {
            let nines = f64::from(step) / 100.0 * NINES_MAX;
            let percentile = 100.0 - 100.0 / 10_f64.powf(nines);
            (nines, ms(histogram.value_at_percentile(percentile)))
        });
        chart
            .draw_series(LineSeries::new(points, &colour))
            .map_err(|error| failed(&error))?
            .label(name)
            .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 20, y)], colour));
    }
    chart
        .configure_series_labels()
        .border_style(RGBColor(0, 0, 0))
        .draw()
        .map_err(|e| failed(&e))?;
    root.present().map_err(|error| failed(&error))
}

fn percentile_label(nines: f64) -> String {
    format!("{:.5}", 100.0 - 100.0 / 10_f64.powf(nines))
        .trim_end_matches('0')
        .trim_end_matches('.')
        .to_owned()
}

#[cfg(test)]
mod tests {
    use hdrhistogram::Histogram;

    use super::{draw, percentile_label};

    #[test]
    fn percentiles_when_labelled_then_nines() {
        let labels: Vec<String> = (0..4).map(|nines| percentile_label(f64::from(nines))).collect();
        assert_eq!(labels, ["0", "90", "99", "99.9"]);
    }

    #[test]
    fn histogram_when_drawn_then_svg_with_a_line() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("plot.svg");
        let mut histogram = Histogram::new(3).unwrap();
        for value in 1..1_000_u64 {
            histogram.record(value * 1_000_000).unwrap();
        }
        draw(&file, "title", &[("delivery".to_owned(), histogram)]).unwrap();
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.contains("<svg") && text.contains("polyline") && text.contains("title"));
    }
}
