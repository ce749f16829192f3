// Times as the reader's clock shows them; without this script they stand in UTC, which the title goes on to say.
const lang = document.documentElement.lang;
const today = new Date().toDateString();
for (const time of document.querySelectorAll("time[datetime]")) {
  const at = new Date(time.dateTime);
  if (Number.isNaN(at.valueOf())) continue;
  time.title = time.textContent;
  time.textContent = at.toDateString() === today
    ? at.toLocaleTimeString(lang)
    : at.toLocaleString(lang, { dateStyle: "medium", timeStyle: "short" });
}
