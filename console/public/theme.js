// Before the first paint, so that a page in the dark does not flash.
try {
  const theme = localStorage.getItem("comity-theme");
  if (theme === "dark" || theme === "light") document.documentElement.dataset.theme = theme;
} catch {
  // No storage: the system's own scheme it is.
}
