// Colour scales, even in perceived lightness (Oklab), told apart by lightness as well as by hue.

function oklab(L, a, b) {
  const l = (L + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const m = (L - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const s = (L - 0.0894841775 * a - 1.291485548 * b) ** 3;
  return [4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
    -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
    -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s].map((x) => {
    const v = x <= 0.0031308 ? 12.92 * x : 1.055 * Math.max(x, 0) ** (1 / 2.4) - 0.055;
    return Math.round(255 * Math.min(Math.max(v, 0), 1));
  });
}

/** 256 colours through the given points [L, a, b], evenly spaced. */
function ramp(...points) {
  return Array.from({ length: 256 }, (_, i) => {
    const x = (i / 255) * (points.length - 1), k = Math.min(Math.floor(x), points.length - 2), f = x - k;
    return oklab(...points[k].map((v, j) => v + f * (points[k + 1][j] - v)));
  });
}

// Below 0 blue, above 0 orange: safe for all common kinds of colour blindness.
const SCALES = {
  light: {
    signed: ramp([0.36, -0.03, -0.14], [0.62, -0.05, -0.125], [0.965, 0, 0.004], [0.64, 0.1, 0.12], [0.38, 0.1, 0.08]),
    positive: ramp([0.965, 0, 0.012], [0.8, 0.045, 0.115], [0.6, 0.12, 0.115], [0.4, 0.12, 0.05]),
  },
  dark: {
    signed: ramp([0.88, -0.045, -0.07], [0.63, -0.05, -0.13], [0.215, 0, -0.008], [0.65, 0.095, 0.12], [0.9, 0.03, 0.1]),
    positive: ramp([0.27, 0.01, 0.01], [0.46, 0.09, 0.06], [0.66, 0.12, 0.12], [0.87, 0.02, 0.14]),
  },
};

const theme = () => document.documentElement.dataset.theme;
const scale = (kind) => SCALES[theme()][kind];

/** The colour of a value: `signed` from -top to top, `positive` from 0 to top. */
function colourOf(kind, value, top) {
  const x = kind === "signed" ? (value / top + 1) / 2 : value / top;
  return scale(kind)[Math.round(255 * Math.min(Math.max(x, 0), 1))];
}

/** Black or white, whichever can be read on a colour: one of them always has a contrast over 4.5. */
function inkOn([r, g, b]) {
  const [R, G, B] = [r, g, b].map((v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * R + 0.7152 * G + 0.0722 * B > 0.179 ? "#000" : "#fff";
}

const css = (colour) => `rgb(${colour.join(" ")})`;

/** A strip that shows a scale, with its ends written. */
function legend(kind, low, high) {
  const strip = el("canvas", { width: 256, height: 1, "aria-hidden": "true" });
  const context = strip.getContext("2d"), image = context.createImageData(256, 1);
  scale(kind).forEach((c, i) => image.data.set([...c, 255], 4 * i));
  context.putImageData(image, 0, 0);
  return el("div", { class: "legend" }, el("span", {}, low), strip, el("span", {}, high));
}
