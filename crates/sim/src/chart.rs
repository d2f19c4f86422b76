//! Miss-ratio curves as pictures.

use std::ops::Range;
use std::path::Path;
use std::sync::Once;

use epaint_default_fonts::UBUNTU_LIGHT;
use plotters::coord::Shift;
use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint, KeyPointWeight};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{FontStyle, register_font};

use crate::curve::{Curve, Engine};
use crate::table::{ratio, size_text};

/// What is drawn.
#[derive(Clone, Copy, Debug)]
pub struct Chart<'a> {
    /// Above the curves.
    pub title: &'a str,
    /// Below the title, smaller.
    pub subtitle: &'a str,
    /// The curves, each with points of rising sizes.
    pub curves: &'a [Curve],
    /// References there were.
    pub references: u64,
    /// Bytes of a page.
    pub page_size: u64,
    /// Pages of memory with which the trace was recorded.
    pub recorded: Option<u64>,
}

/// How a picture is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// Scalable Vector Graphics.
    Svg,
    /// Portable Network Graphics, twice as many pixels as the SVG has.
    Png,
}

/// Why there is no picture.
#[derive(Debug)]
pub struct DrawError(String);

impl std::fmt::Display for DrawError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}
impl std::error::Error for DrawError {}

fn failed<E: std::fmt::Display>(e: E) -> DrawError {
    DrawError(e.to_string())
}

const WIDTH: u32 = 920;
const HEIGHT: u32 = 560;
const FONT: &str = "sans-serif";
const INK: RGBColor = RGBColor(0x22, 0x26, 0x2b);
const FAINT: RGBColor = RGBColor(0x6a, 0x72, 0x7c);
const GRID: RGBColor = RGBColor(0xe4, 0xe7, 0xeb);

/// Colours that people tell apart who see few (Okabe and Ito), and whether the line is broken.
fn look(engine: Engine, place: usize) -> (RGBColor, bool) {
    const POLICIES: [RGBColor; 4] = [
        RGBColor(0x00, 0x72, 0xb2),
        RGBColor(0xd5, 0x5e, 0x00),
        RGBColor(0x00, 0x9e, 0x73),
        RGBColor(0xcc, 0x79, 0xa7),
    ];
    match engine {
        Engine::Policy(_) => (POLICIES[place % POLICIES.len()], false),
        Engine::Lru => (RGBColor(0x75, 0x7d, 0x88), true),
        Engine::Opt => (INK, true),
    }
}

impl Chart<'_> {
    /// Draws it into a file, which is replaced.
    ///
    /// # Errors
    /// There are no points, or the file cannot be written.
    pub fn write(&self, path: &Path, format: Format) -> Result<(), DrawError> {
        static FONTS: Once = Once::new();
        FONTS.call_once(|| {
            // Refused only if it is no font.
            let _ = register_font(FONT, FontStyle::Normal, UBUNTU_LIGHT);
        });
        if self.curves.iter().all(|c| c.points.is_empty()) {
            return Err(DrawError("there is nothing to draw".into()));
        }
        match format {
            Format::Svg => {
                let mut text = String::new();
                self.draw(&SVGBackend::with_string(&mut text, (WIDTH, HEIGHT)).into_drawing_area(), 1)?;
                std::fs::write(path, text).map_err(failed)
            }
            Format::Png => {
                let (w, h) = (2 * WIDTH, 2 * HEIGHT);
                let mut pixels = vec![0; 3 * (w * h) as usize];
                self.draw(&BitMapBackend::with_buffer(&mut pixels, (w, h)).into_drawing_area(), 2)?;
                let file = std::io::BufWriter::new(std::fs::File::create(path).map_err(failed)?);
                let mut encoder = png::Encoder::new(file, w, h);
                encoder.set_color(png::ColorType::Rgb);
                encoder.set_depth(png::BitDepth::Eight);
                let mut writer = encoder.write_header().map_err(failed)?;
                writer.write_image_data(&pixels).map_err(failed)?;
                writer.finish().map_err(failed)
            }
        }
    }

    /// `scale` pixels for each unit of [`WIDTH`] and [`HEIGHT`].
    fn draw<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>, scale: u32) -> Result<(), DrawError>
    where
        B::ErrorType: 'static,
    {
        let px = |n: u32| n * scale;
        let font = |n: u32, color: &'static RGBColor| -> TextStyle<'static> {
            TextStyle::from((FONT, px(n)).into_font()).color(color)
        };
        area.fill(&WHITE).map_err(failed)?;
        let at = |x: u32, y: u32| (px(x) as i32, px(y) as i32);
        area.draw(&Text::new(self.title.to_string(), at(28, 20), font(22, &INK))).map_err(failed)?;
        area.draw(&Text::new(self.subtitle.to_string(), at(28, 50), font(14, &FAINT))).map_err(failed)?;
        self.legend(area, scale)?;

        let all = || self.curves.iter().flat_map(|c| &c.points);
        let bytes = |frames: u64| (frames * self.page_size) as f64;
        let (mut low, mut high) = (f64::MAX, 1.0f64);
        all().for_each(|p| (low, high) = (low.min(bytes(p.frames)), high.max(bytes(p.frames))));
        // One size alone still has room on both sides.
        let (low, high) = if low < high { (low, high) } else { (low / 2.0, high * 2.0) };
        let top = all().map(|p| ratio(p.outcome.misses, self.references)).fold(0.0, f64::max);
        let step = grid_step(top * 100.0);
        let top = ((top * 100.0 / step).ceil() * step).max(step);
        // Octaves: the ticks are doublings.
        let (left, right) = (low.log2(), high.log2());
        let mut chart = ChartBuilder::on(area)
            .margin_top(px(112))
            .margin_right(px(36))
            .margin_left(px(20))
            .margin_bottom(px(12))
            .x_label_area_size(px(46))
            .y_label_area_size(px(58))
            .build_cartesian_2d(
                Axis { range: left..right, ticks: octaves(left, right) },
                Axis { range: 0.0..top, ticks: steps(top, step) },
            )
            .map_err(failed)?;
        (chart.configure_mesh())
            .bold_line_style(GRID.stroke_width(scale))
            .light_line_style(TRANSPARENT)
            .axis_style(GRID.stroke_width(scale))
            .x_desc("memory")
            .y_desc("references that miss")
            .axis_desc_style(font(14, &FAINT))
            .label_style(font(13, &FAINT))
            .x_label_formatter(&|octave| size_text(octave.exp2().round() as u64))
            .y_label_formatter(&|percent| format!("{percent} %"))
            .draw()
            .map_err(failed)?;
        if let Some(x) =
            self.recorded.map(|frames| bytes(frames).log2()).filter(|x| (left..=right).contains(x))
        {
            let line = DashedLineSeries::new([(x, 0.0), (x, top)], px(2), px(4), FAINT.stroke_width(scale));
            chart.draw_series(line).map_err(failed)?;
            let right_half = x > (left + right) / 2.0;
            let (h, shift) = if right_half { (HPos::Right, -6) } else { (HPos::Left, 6) };
            let style = font(12, &FAINT).pos(Pos::new(h, VPos::Top));
            let label = EmptyElement::at((x, top))
                + Text::new("recorded here", (shift * scale as i32, 4 * scale as i32), style);
            chart.draw_series([label]).map_err(failed)?;
        }
        for (place, curve) in self.curves.iter().enumerate() {
            let (color, broken) = look(curve.engine, place);
            let point =
                |p: &crate::Point| (bytes(p.frames).log2(), 100.0 * ratio(p.outcome.misses, self.references));
            let points: Vec<(f64, f64)> = curve.points.iter().map(point).collect();
            let stroke = color.stroke_width(2 * scale);
            if broken {
                let line = DashedLineSeries::new(points.clone(), px(7), px(4), stroke);
                chart.draw_series(line).map_err(failed)?;
            } else {
                chart.draw_series(LineSeries::new(points.clone(), stroke)).map_err(failed)?;
            }
            if !broken || points.len() == 1 {
                let dots = points.iter().map(|p| Circle::new(*p, px(3), color.filled()));
                chart.draw_series(dots).map_err(failed)?;
            }
        }
        Ok(())
    }

    /// Names beside pieces of their lines, in one row above the curves.
    fn legend<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>, scale: u32) -> Result<(), DrawError>
    where
        B::ErrorType: 'static,
    {
        let style = TextStyle::from((FONT, 15 * scale).into_font())
            .color(&INK)
            .pos(Pos::new(HPos::Left, VPos::Center));
        let (mut x, y) = (28 * scale as i32, 90 * scale as i32);
        for (place, curve) in self.curves.iter().enumerate() {
            let (color, broken) = look(curve.engine, place);
            let (end, stroke) = (x + 26 * scale as i32, color.stroke_width(2 * scale));
            if broken {
                for part in [0, 10, 20] {
                    let from = x + part * scale as i32;
                    let line = PathElement::new([(from, y), (from + 6 * scale as i32, y)], stroke);
                    area.draw(&line).map_err(failed)?;
                }
            } else {
                area.draw(&PathElement::new([(x, y), (end, y)], stroke)).map_err(failed)?;
                area.draw(&Circle::new(((x + end) / 2, y), 3 * scale, color.filled())).map_err(failed)?;
            }
            let name = match curve.engine {
                Engine::Policy(r) => r.policy().name().to_string(),
                Engine::Lru => "LRU".to_string(),
                Engine::Opt => "optimum".to_string(),
            };
            let (width, _) = area.estimate_text_size(&name, &style).map_err(failed)?;
            area.draw(&Text::new(name, (end + 8 * scale as i32, y), style.clone())).map_err(failed)?;
            x = end + width as i32 + 36 * scale as i32;
        }
        Ok(())
    }
}

/// An axis with its ticks given.
struct Axis {
    range: Range<f64>,
    ticks: Vec<f64>,
}

impl Ranged for Axis {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let part = (value - self.range.start) / (self.range.end - self.range.start);
        limit.0 + (f64::from(limit.1 - limit.0) * part).round() as i32
    }
    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        match hint.weight() {
            // Lines between the ticks are not wanted.
            KeyPointWeight::Any => Vec::new(),
            KeyPointWeight::Bold => self.ticks.clone(),
        }
    }
    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

/// Between lines of the grid, so that there are four to nine: 1, 2 or 5 times a power of ten.
fn grid_step(top: f64) -> f64 {
    let rough = (top / 6.0).max(0.01);
    let power = 10f64.powf(rough.log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|n| n * power).find(|step| *step >= rough).unwrap_or(10.0 * power)
}

fn steps(top: f64, step: f64) -> Vec<f64> {
    let digits = 10f64.powf((-step.log10().floor()).max(0.0));
    (0..=(top / step).round() as u32).map(|i| (f64::from(i) * step * digits).round() / digits).collect()
}

/// The doublings between, at most twelve.
fn octaves(left: f64, right: f64) -> Vec<f64> {
    let (first, last) = ((left - 1e-6).ceil() as i32, (right + 1e-6).floor() as i32);
    let every = ((last - first) / 12 + 1).max(1);
    (first..=last).step_by(every as usize).map(f64::from).collect()
}
