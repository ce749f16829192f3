// How long a turn or a hold still lasts, counted in the browser; the server decides.
const until = Date.parse(document.getElementById("expires").dateTime);
const shown = document.getElementById("countdown");
const tick = () => {
  const left = Math.max(0, Math.round((until - Date.now()) / 1000));
  shown.textContent = `(${Math.floor(left / 60)}:${String(left % 60).padStart(2, "0")})`;
  if (left === 0) location.reload();
  else setTimeout(tick, 1000);
};
if (until > Date.now()) tick();
