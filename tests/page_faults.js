// What is wrong with a page as it is shown, a sentence each: see browser.py.
(contrast, smallest) => {
  const faults = [], told = text => JSON.stringify(text.trim().slice(0, 40));
  const wide = document.documentElement.scrollWidth, room = document.documentElement.clientWidth;
  if (wide > room + 1) {
    const out = [...document.body.querySelectorAll("*")].filter(
      one => one.getBoundingClientRect().right > room + 1 && !one.closest(".scroll"));
    const names = out.slice(0, 3).map(one => `${one.tagName}.${one.getAttribute("class")}`);
    faults.push(`the page is ${wide} wide on a screen of ${room}: ${names.join(", ")}`);
  }

  const clips = element => ["hidden", "clip", "auto", "scroll"].includes(getComputedStyle(element).overflowX);
  const box = ({left, right, top, bottom}) => [[left, top], [right, top], [right, bottom], [left, bottom]];
  // A panel beside the screen, which a button opens.
  const inClosedDrawer = element => {
    for (let outer = element; outer; outer = outer.parentElement) {
      const {left, right} = outer.getBoundingClientRect();
      if (getComputedStyle(outer).position === "fixed" && (right <= 0 || left >= room)) return true;
    }
    return false;
  };
  // The texts that are shown, each as the four corners of its lines.
  const texts = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const parent = node.parentElement;
    if (!node.data.trim() || ["SCRIPT", "STYLE", "TITLE", "NOSCRIPT"].includes(parent.tagName.toUpperCase())) continue;
    if (!parent.checkVisibility({checkOpacity: true, checkVisibilityCSS: true})) continue;
    if (parent.closest(".skip") || parent.closest("option") || inClosedDrawer(parent)) continue;
    let quads;
    if (parent instanceof SVGElement) {
      const own = parent.closest("text"), size = own.getBBox(), matrix = own.getScreenCTM();
      if (!size.width) continue;
      const at = (x, y) => { const p = new DOMPoint(x, y).matrixTransform(matrix); return [p.x, p.y]; };
      // A line's box has room above and below its letters.
      const [top, bottom] = [size.y + 0.15 * size.height, size.y + 0.85 * size.height];
      quads = [[at(size.x, top), at(size.x + size.width, top), at(size.x + size.width, bottom), at(size.x, bottom)]];
    } else {
      const range = document.createRange();
      range.selectNodeContents(node);
      quads = [...range.getClientRects()].filter(r => r.width > 0.5 && r.height > 0.5).map(box);
    }
    if (quads.length) texts.push({node, parent, quads, text: node.data});
  }

  // Convex shapes are apart where an edge of one parts them.
  const apart = (a, b) => [a, b].some(shape => shape.some((p, i) => {
    const q = shape[(i + 1) % 4], normal = [q[1] - p[1], p[0] - q[0]], size = Math.hypot(...normal) || 1;
    const along = one => one.map(([x, y]) => (x * normal[0] + y * normal[1]) / size);
    const [one, other] = [along(a), along(b)];
    return Math.max(...one) < Math.min(...other) + 1.5 || Math.max(...other) < Math.min(...one) + 1.5;
  }));
  const bounds = quads => {
    const all = quads.flat(), x = all.map(p => p[0]), y = all.map(p => p[1]);
    return {left: Math.min(...x), right: Math.max(...x), top: Math.min(...y), bottom: Math.max(...y)};
  };
  for (const one of texts) one.bounds = bounds(one.quads);
  texts.sort((a, b) => a.bounds.top - b.bounds.top);
  texts.forEach((one, i) => {
    for (let j = i + 1; j < texts.length && texts[j].bounds.top < one.bounds.bottom; j++) {
      const other = texts[j];
      if (other.bounds.left > one.bounds.right || other.bounds.right < one.bounds.left) continue;
      if (one.quads.some(a => other.quads.some(b => !apart(a, b))))
        faults.push(`${told(one.text)} overlaps ${told(other.text)}`);
    }
  });

  // Text is cut by the edge of the screen, of its drawing, or of a box that does not scroll.
  for (const {parent, bounds: at, text} of texts) {
    let scrolls = false;
    for (let outer = parent; outer && outer !== document.body; outer = outer.parentElement) {
      const edge = outer.getBoundingClientRect(), style = getComputedStyle(outer);
      if (["auto", "scroll"].includes(style.overflowX)) { scrolls = true; continue; }
      const drawing = outer instanceof SVGSVGElement;
      if (!scrolls && (drawing || clips(outer)) && (at.left < edge.left - 2 || at.right > edge.right + 2))
        faults.push(`${told(text)} is cut by its ${outer.tagName}.${outer.getAttribute("class")}`);
      if (drawing && (at.top < edge.top - 2 || at.bottom > edge.bottom + 2))
        faults.push(`${told(text)} is cut by its ${outer.tagName}.${outer.getAttribute("class")}`);
    }
    if (!scrolls && (at.left < -1 || at.right > room + 1)) faults.push(`${told(text)} lies outside the screen`);
  }
  // What scrolls sideways shows that it does, by a shade at its edge.
  for (const one of document.querySelectorAll("*")) {
    const style = getComputedStyle(one);
    if (!["auto", "scroll"].includes(style.overflowX) || one.scrollWidth <= one.clientWidth + 1) continue;
    if (!one.clientWidth || inClosedDrawer(one)) continue;
    if (!style.backgroundImage.includes("gradient"))
      faults.push(`${one.tagName}.${one.className} of ${one.clientWidth} scrolls to ${one.scrollWidth} without a hint`);
  }

  // Sizes on the screen, and contrast against what lies behind.
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const colour = text => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = text; canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = (a, b) => [0, 1, 2].map(i => a[i] * a[3] + b[i] * (1 - a[3])).concat(1);
  const light = rgb => {
    const linear = v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    const [r, g, b] = rgb.slice(0, 3).map(v => linear(v / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const bare = matchMedia("(prefers-color-scheme: dark)").matches ? [18, 18, 18, 1] : [255, 255, 255, 1];
  const behind = element => {
    const layers = [];
    for (let one = element; one; one = one.parentElement) {
      const layer = colour(getComputedStyle(one).backgroundColor);
      layers.push(layer);
      if (layer[3] === 1) break;
    }
    return layers.reverse().reduce((under, layer) => over(layer, under), bare);
  };
  for (const {parent, text} of texts) {
    const style = getComputedStyle(parent), drawn = parent instanceof SVGElement;
    let size = parseFloat(style.fontSize);
    if (drawn) { const m = parent.getScreenCTM(); size *= Math.hypot(m.a, m.b); }
    if (size < smallest) faults.push(`${told(text)} is ${size.toFixed(1)} pixels high`);
    const disabled = parent.closest(":disabled");
    const ground = behind(drawn ? parent.ownerSVGElement : parent);
    const ink = over(colour(drawn ? style.fill : style.color), ground);
    const [high, low] = [light(ink), light(ground)].sort((a, b) => b - a);
    const ratio = (high + 0.05) / (low + 0.05);
    if (ratio < contrast && !disabled) faults.push(`${told(text)} has a contrast of ${ratio.toFixed(2)}`);
  }
  return [...new Set(faults)];
}
