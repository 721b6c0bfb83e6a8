"""Style and script of the report page. Nothing here refers to anything outside it."""

CSS = """
:root{--bg:#fff;--fg:#1c2128;--muted:#5c6673;--line:#dde2e8;--card:#f6f7f9;
--c0:#2667d9;--c1:#c2570c;--c2:#0b8457;--c3:#c62a47;--c4:#7a3fd1;--c5:#0a7f99;
--c6:#a8327d;--c7:#5f7d0e;--gold:#b7791f;--proxy:#2667d9;--kl:#7a3fd1;--faint:#9aa4b0;
--pos:#2f9e63;--neg:#d6455d;color-scheme:light dark}
@media(prefers-color-scheme:dark){:root{--bg:#12161c;--fg:#e4e8ee;--muted:#98a3b1;
--line:#2b323c;--card:#1a2028;--c0:#6ea5ff;--c1:#ff9d5c;--c2:#4cc794;--c3:#ff7b93;
--c4:#b493ff;--c5:#4fc3dd;--c6:#f07fc4;--c7:#a9c74b;--gold:#f0b849;--proxy:#6ea5ff;
--kl:#b493ff;--faint:#66717f;--pos:#34b877;--neg:#ee5d77}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0 auto;max-width:1240px;padding:20px 16px 60px;background:var(--bg);
color:var(--fg);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;
overflow-wrap:anywhere}
h1{font-size:22px;margin:0}
h2{font-size:19px;margin:40px 0 8px;padding-top:14px;border-top:1px solid var(--line)}
h3{font-size:16px;margin:22px 0 8px}h4{font-size:14px;margin:0 0 4px}
h5{font-size:13px;margin:14px 0 4px}p{margin:6px 0;max-width:95ch}
small,.muted,figcaption{color:var(--muted);font-size:12.5px}
.warn{color:var(--neg)}
.lead{color:var(--muted);margin:2px 0 14px}
.verdict{font-size:19px;line-height:1.4;margin:8px 0;max-width:72ch}
.dot{display:inline-block;width:10px;height:10px;border-radius:5px;margin-right:6px}
.cards{display:grid;gap:12px;margin:16px 0;
grid-template-columns:repeat(auto-fit,minmax(min(100%,280px),1fr))}
.card,figure,details{background:var(--card);border:1px solid var(--line);
border-radius:10px}
.card{padding:12px 14px}.card h3{margin:0 0 6px;font-size:15px}
.card h3 small{float:right;font-weight:400}
.card dl{display:grid;grid-template-columns:repeat(3,1fr);gap:8px;margin:0}
.card dt{font-size:12.5px;color:var(--muted)}
.card dd{margin:0}.card dd b{font-size:20px;display:block;line-height:1.2}
.card .gold b{color:var(--gold)}.card .proxy b{color:var(--proxy)}
.card .kl b{color:var(--kl)}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{text-align:right;padding:5px 6px;border-bottom:1px solid var(--line);
font-size:14px;vertical-align:top}
th:first-child{text-align:left;font-weight:600}thead th{color:var(--muted);
font-weight:500;font-size:12.5px}
td small,thead small{display:inline-block;white-space:nowrap}
.summary th,.summary td{overflow-wrap:normal}
@media(max-width:520px){.summary th,.summary td{padding:5px 3px;font-size:13px}
.summary small,.summary thead th{font-size:11.5px}}
.group th{padding-top:12px}
.facts-table th{font-weight:400;font-size:13px}.facts-table td{font-size:13px}
.config th{font-family:ui-monospace,Menlo,Consolas,monospace;font-size:12.5px}
.config td{font-family:ui-monospace,Menlo,Consolas,monospace;font-size:12.5px}
.facts-table th,.config th{width:45%}.facts-table td,.config td{text-align:left}
.values{display:flex;flex-wrap:wrap;gap:4px 14px;justify-content:flex-start}
.grid{display:grid;gap:12px;
grid-template-columns:repeat(auto-fill,minmax(min(100%,340px),1fr))}
.grid.tight{grid-template-columns:repeat(auto-fill,minmax(min(100%,210px),1fr))}
figure{margin:0;padding:10px 12px;min-width:0}figcaption{margin-top:4px;line-height:1.4}
figure.small{padding:6px 8px}
.legend{display:flex;flex-wrap:wrap;gap:2px 12px;font-size:12.5px;margin-bottom:2px}
.runs{position:sticky;top:0;z-index:2;background:var(--bg);padding:6px 0;
border-bottom:1px solid var(--line)}
.key{display:inline-flex;align-items:center;gap:5px}
.swatch{height:10px;width:auto;flex:none}.swatch rect{fill:currentColor}
svg.plot{display:block;width:100%;height:auto;touch-action:pan-y}
svg text{fill:var(--muted);font-size:11px;font-family:inherit}
svg .label{fill:var(--muted);font-size:11px}
svg .mid{text-anchor:middle}svg .end{text-anchor:end}
.gridline{stroke:var(--line);fill:none}.axis,.tick{stroke:var(--faint);fill:none}
.line{stroke:currentColor;fill:none;stroke-width:1.7;stroke-linejoin:round}
.line.raw{opacity:.3;stroke-width:1}
.series circle{fill:currentColor}.band{fill:currentColor;opacity:.16}
.area{fill:currentColor;opacity:.8}.bad{stroke:var(--neg);stroke-width:1.4;fill:none}
.mark{fill:currentColor}.mark text{fill:currentColor;font-size:11.5px;font-weight:600;
paint-order:stroke;stroke:var(--card);stroke-width:3px}
.bar{stroke:currentColor;stroke-width:1.3;fill:none}
.guide{stroke:var(--faint);stroke-dasharray:2 2}
#tip{position:absolute;z-index:3;pointer-events:none;background:var(--fg);
color:var(--bg);font-size:12px;line-height:1.35;padding:5px 8px;border-radius:6px;
max-width:240px;white-space:pre-line;display:none}
.barrow{font-size:12.5px;margin:6px 0}.bars{display:flex;height:16px}
.bars i{display:block;opacity:.85}
details{margin:8px 0;padding:0 12px}details[open]{padding-bottom:12px}
summary{cursor:pointer;padding:9px 0;font-size:14px}summary em{color:var(--muted);
white-space:nowrap}
summary b{margin-right:6px}
details.inner{background:var(--bg);padding:0 8px}
.text{white-space:pre-wrap;margin:4px 0;font:13.5px/1.65 ui-monospace,Menlo,Consolas,
monospace;overflow-wrap:anywhere}
.prompt{color:var(--muted);border-left:3px solid var(--line);padding-left:10px;
max-height:220px;overflow-y:auto}
.response{border-top:1px solid var(--line);padding:8px 0 2px}
.facts{display:flex;flex-wrap:wrap;gap:0 14px;font-size:12.5px;color:var(--muted);
font-variant-numeric:tabular-nums}.facts b{color:var(--fg);font-weight:600}
.step{color:var(--fg);font-weight:600;min-width:70px}
.controls{display:flex;flex-wrap:wrap;gap:6px;align-items:center;font-size:13px;
margin:6px 0}
.controls input{position:absolute;opacity:0}
.controls label span{display:inline-block;border:1px solid var(--line);
border-radius:14px;padding:3px 11px;cursor:pointer;background:var(--card)}
.controls input:checked+span{background:var(--fg);color:var(--bg)}
.controls input:focus-visible+span{outline:2px solid var(--c0);outline-offset:2px}
.scale{display:none;align-items:center;gap:6px;font-size:12.5px;color:var(--muted);
flex-wrap:wrap}
.scale i{width:110px;height:10px;border-radius:5px;
background:linear-gradient(90deg,var(--neg),transparent,var(--pos))}
.t{--v:0;border-radius:3px;padding:1px 0;background:
linear-gradient(color-mix(in srgb,var(--pos) clamp(0%,var(--v)*75%,75%),transparent)
0 0),linear-gradient(color-mix(in srgb,var(--neg) clamp(0%,var(--v)*-75%,75%),
transparent) 0 0)}
.tokens td,.tokens th{padding:2px 3px;font-size:12px;overflow-wrap:normal}
.tokens th:first-child{overflow-wrap:anywhere}.tokens thead th{font-size:11px}
.tokens code{white-space:pre-wrap}
"""
"""Everything but the rules of the token fields, which `heat_rules` writes."""

SCRIPT = """
(function(){
var tip=document.createElement('div');tip.id='tip';document.body.appendChild(tip);
function num(text){return text.split(',').map(Number)}
function pretty(v){return isFinite(v)?String(+v.toPrecision(4)):'not finite'}
document.querySelectorAll('svg.plot').forEach(function(plot){
 var frame=num(plot.dataset.frame),box=plot.viewBox.baseVal,guide=null,all=null;
 function load(){all=[].map.call(plot.querySelectorAll('g.series'),function(g){
  return{g:g,label:g.dataset.label,x:num(g.dataset.x),y:num(g.dataset.y)}})}
 function hide(){tip.style.display='none';if(guide){guide.remove();guide=null}}
 plot.addEventListener('pointerleave',hide);
 plot.addEventListener('pointermove',function(e){
  if(!all)load();
  var r=plot.getBoundingClientRect(),px=(e.clientX-r.left)*box.width/r.width;
  var low=+plot.dataset.low,high=+plot.dataset.high,root=plot.dataset.root==='1';
  var share=(px-frame[0])/(frame[2]-frame[0]);
  if(!all.length||share<-.02||share>1.02)return hide();
  function warp(v){return root?Math.sqrt(Math.max(v,0)):v}
  function where(v){return(warp(v)-warp(low))/(warp(high)-warp(low))}
  var best=null;
  all.forEach(function(s){s.i=0;s.x.forEach(function(v,i){
   if(Math.abs(where(v)-share)<Math.abs(where(s.x[s.i])-share))s.i=i});
   var d=Math.abs(where(s.x[s.i])-share);
   if(s.x.length&&(best===null||d<best.d))best={d:d,x:s.x[s.i]}});
  if(best===null)return hide();
  var text=plot.dataset.name+' '+pretty(best.x);
  all.forEach(function(s){if(s.x[s.i]===best.x)
   text+='\\n'+s.label+': '+pretty(s.y[s.i])});
  tip.textContent=text;tip.style.display='block';
  var left=e.clientX+14;if(left+tip.offsetWidth>innerWidth-8)
   left=Math.max(4,e.clientX-tip.offsetWidth-14);
  tip.style.left=left+scrollX+'px';tip.style.top=e.clientY+scrollY+14+'px';
  if(!guide){guide=document.createElementNS(plot.namespaceURI,'path');
   guide.setAttribute('class','guide');plot.appendChild(guide)}
  var at=frame[0]+where(best.x)*(frame[2]-frame[0]);
  guide.setAttribute('d','M'+at+' '+frame[1]+'V'+frame[3]);
 });
});
})();
"""
"""Numbers under the pointer; the page is complete without it."""


def heat_rules(fields: tuple[str, ...]) -> str:
    """CSS that colors tokens by the chosen field and shows that field's scale."""
    rules = []
    for name in fields:
        chosen = f'.samples:has(input[value="{name}"]:checked)'
        rules.append(f"{chosen} .t{{--v:calc(var(--{name},0)/var(--s-{name},1))}}")
        rules.append(f"{chosen} .scale.{name}{{display:flex}}")
    return "".join(rules)
