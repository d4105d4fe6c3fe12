"""The GLSL of cone_legible.py. Its numbers DIRECTIONS, LOOKS, FAN and RIM are put in there."""

COMMON = """
#version 330 core
uniform vec2 middle;  // of the view, in pixels from the picture's upper left corner
uniform vec2 size;  // w, h
uniform float number;  // of pictures
uniform float scale;  // pixels per metre
uniform vec4 view;  // distance, half the angle, head angle, radians that a horizon spans
const float PI = 3.141592653589793;
float left_of(vec2 p) { return atan(-p.x, p.y); }
float from_head(float angle) { return mod(angle - view.z + PI, 2.0 * PI) - PI; }
vec2 ahead(float angle) { return vec2(-sin(angle), cos(angle)); }
float inside(vec2 p) {  // how much of a pixel at p the cone covers
    float whole = clamp((view.x - length(p)) * scale + 0.5, 0.0, 1.0);
    if (view.y >= PI) return whole;
    vec2 d = ahead(view.z);
    return whole * clamp((sin(view.y) * dot(d, p) - cos(view.y) * abs(d.x * p.y - d.y * p.x)) * scale + 0.5, 0.0, 1.0);
}
"""
OBJECT = """
layout(location = 0) in vec4 place;  // cone, u, v, shape
layout(location = 1) in vec4 form;  // the heading's unit vector, half the length and half the width as drawn
// half the true length and width; whether it hides what is behind it; whether the cone cuts it off and others hide it
layout(location = 2) in vec4 body;
vec2 corner(float x, float y, vec2 half_size) { return place.yz + form.xy * x * half_size.x + vec2(-form.y,
    form.x) * y * half_size.y; }
vec2 extent() {  // the directions it spans, relative to its middle's
    vec2 found = vec2(0.0);
    for (int i = 0; i < 4; i++) {
        vec2 c = corner(i < 2 ? 1.0 : -1.0, i % 2 == 0 ? 1.0 : -1.0, body.xy);
        float a = atan(place.y * c.y - place.z * c.x, dot(place.yz, c));
        found = vec2(min(found.x, a), max(found.y, a));
    }
    return found;
}
"""
RAY = """
vec2 hit(vec2 d, vec2 at, vec2 axis, vec2 half_size) {  // where a ray from the ego enters and leaves a box
    vec2 o = vec2(-dot(at, axis), -dot(at, vec2(-axis.y, axis.x))), r = vec2(dot(d, axis), dot(d, vec2(-axis.y,
        axis.x)));
    r = mix(r, vec2(1e-9), lessThan(abs(r), vec2(1e-9)));
    vec2 a = (-half_size - o) / r, b = (half_size - o) / r;
    vec2 low = min(a, b), high = max(a, b);
    return vec2(max(low.x, low.y), min(high.x, high.y));
}
"""
HORIZON_VERTEX = (
    COMMON
    + OBJECT
    + """
flat out vec4 box;
flat out vec4 sizes;
void main() {
    vec2 range = extent(), quad = vec2(gl_VertexID % 6 == 1 || gl_VertexID % 6 == 2 || gl_VertexID % 6 == 4,
        gl_VertexID % 6 == 2 || gl_VertexID % 6 >= 4);
    float middle_angle = from_head(left_of(place.yz));
    // what sticks out on one side of a full circle comes in on the other
    if (gl_VertexID >= 6) middle_angle -= sign(middle_angle) * 2.0 * PI;
    float a = middle_angle + mix(range.x, range.y, quad.x);
    box = vec4(place.yz, form.xy);
    sizes = vec4(form.zw, body.xy);
    vec2 own = vec2(-dot(place.yz, form.xy), -dot(place.yz, vec2(-form.y, form.x)));
    bool around = all(lessThan(abs(own), body.xy));
    gl_Position = body.z == 0.0 || around ? vec4(2.0, 2.0, 0.0, 1.0) : vec4(2.0 * a / view.w,
        2.0 * (place.x + quad.y) / number - 1.0, 0.0, 1.0);
}
"""
)
HORIZON_FRAGMENT = (
    COMMON
    + RAY
    + """
flat in vec4 box;
flat in vec4 sizes;
out vec4 nearest;
void main() {
    vec2 d = ahead((gl_FragCoord.x / DIRECTIONS - 0.5) * view.w + view.z);
    vec2 truly = hit(d, box.xy, box.zw, sizes.zw);
    if (truly.x > truly.y || truly.y <= 0.0) discard;
    nearest = vec4(max(truly.y, hit(d, box.xy, box.zw, sizes.xy).y), truly.y, 0.0, 0.0);
}
"""
)
GROUND_VERTEX = (
    COMMON
    + """
layout(location = 0) in vec4 ego;  // cone; x and y relative to the texture's corner; nothing
layout(location = 1) in vec4 turn;  // sine and cosine of its heading
flat out vec4 from;
flat out vec2 heading;
// a fan around the cone, a pixel larger than it, of FAN triangles; a square where the cone is more than half a circle
void main() {
    int triangle = gl_VertexID / 3, k = gl_VertexID % 3;
    vec2 p;
    if (view.y < 1.5) {
        float slack = 1.0 / (scale * sin(view.y)), part = 2.0 * view.y / FAN;
        p = -slack * ahead(view.z);
        if (k > 0) p += (view.x + slack + 1.0 / scale) / cos(0.5 * part) * ahead(view.z - view.y + part *
            float(triangle + k - 1));
    } else {
        const vec2 QUAD[6] = vec2[6](vec2(-1, -1), vec2(1, -1), vec2(1, 1), vec2(-1, -1), vec2(1, 1), vec2(-1, 1));
        p = triangle < 2 ? view.x * QUAD[gl_VertexID] : vec2(0.0);
    }
    p = middle + vec2(p.x, -p.y) * scale;
    from = ego;
    heading = turn.xy;
    gl_Position = vec4(2.0 * p.x / size.x - 1.0, 2.0 * (p.y + ego.x * size.y) / (size.y * number) - 1.0, 0.0, 1.0);
}
"""
)
GROUND_FRAGMENT = (
    COMMON
    + """
uniform sampler2D road;
uniform sampler2D horizon;
uniform vec2 grain;  // 1 / (the texture's extent in metres)
flat in vec4 from;
flat in vec2 heading;
out vec4 color;
vec3 ground(vec2 p) {
    return texture(road, (from.yz + vec2(heading.x * p.x + heading.y * p.y,
        heading.x * p.y - heading.y * p.x)) * grain).rgb;
}
void main() {
    vec2 pixel = gl_FragCoord.xy - vec2(0.0, from.x * size.y), p = pixel - middle;
    p = vec2(p.x, -p.y) / scale;
    float r = length(p), kept = inside(p);
    if (pixel.y < 0.0 || pixel.y > size.y || kept <= 0.0) discard;
    float step_ = 0.25 * DIRECTIONS / (view.w * max(r * scale, 0.5));
    float column = (from_head(left_of(p)) / view.w + 0.5) * DIRECTIONS - 1.5 * step_;
    float dark = 0.0;
    for (int i = 0; i < 4; i++) {
        int at = clamp(int(column + float(i) * step_), 0, int(DIRECTIONS) - 1);
        dark += clamp((r - texelFetch(horizon, ivec2(at, int(from.x)), 0).r) * scale + 0.5, 0.0, 1.0);
    }
    vec2 a = vec2(0.125, 0.375) / scale, b = vec2(-0.375, 0.125) / scale;
    vec3 seen = 0.25 * (ground(p + a) + ground(p - a) + ground(p + b) + ground(p - b));
    color = vec4(seen * kept * (1.0 - 0.25 * dark), 1.0);
}
"""
)
MARK_VERTEX = (
    COMMON
    + OBJECT
    + RAY
    + """
layout(location = 3) in vec3 shade;
uniform sampler2D horizon;
flat out vec4 at;  // cone, u, v, shape
flat out vec4 shape;
flat out vec4 tint;
bool visible() {
    if (body.w == 0.0) return true;
    vec2 range = extent();
    vec2 own = vec2(-dot(place.yz, form.xy), -dot(place.yz, vec2(-form.y, form.x)));
    if (all(lessThan(abs(own), body.xy))) return true;
    vec2 columns = (from_head(left_of(place.yz)) + range) * DIRECTIONS / view.w + 0.5 * DIRECTIONS;
    columns = clamp(floor(columns), 0.0, DIRECTIONS - 1.0);
    float stride = max(1.0, (columns.y - columns.x) / LOOKS);
    for (float column = columns.x; column <= columns.y; column += stride) {
        float a = ((floor(column) + 0.5) / DIRECTIONS - 0.5) * view.w;
        if (abs(a) > view.y) continue;
        vec2 where = hit(ahead(a + view.z), place.yz, form.xy, body.xy);
        if (where.x <= where.y && where.x <= view.x && where.x <= texelFetch(horizon, ivec2(int(column),
            int(place.x)), 0).g) return true;
    }
    return false;
}
void main() {
    const vec2 QUAD[6] = vec2[6](vec2(-1, -1), vec2(1, -1), vec2(1, 1), vec2(-1, -1), vec2(1, 1), vec2(-1, 1));
    at = place;
    shape = form;
    tint = vec4(shade, body.w);
    vec2 p = corner(QUAD[gl_VertexID].x, QUAD[gl_VertexID].y, form.zw + 2.0 / scale) * scale;
    p = middle + vec2(p.x, -p.y) + vec2(0.0, place.x * size.y);
    gl_Position = visible() ? vec4(2.0 * p.x / size.x - 1.0, 2.0 * p.y / (size.y * number) - 1.0, 0.0, 1.0)
        : vec4(2.0, 2.0, 0.0, 1.0);
}
"""
)
MARK_FRAGMENT = (
    COMMON
    + """
flat in vec4 at;
flat in vec4 shape;
flat in vec4 tint;
out vec4 color;
void main() {
    vec2 pixel = gl_FragCoord.xy - vec2(0.0, at.x * size.y);
    if (pixel.y < 0.0 || pixel.y > size.y) discard;
    vec2 p = pixel - middle;
    p = vec2(p.x, -p.y) / scale;
    vec2 d = p - at.yz;
    vec2 q = vec2(dot(d, shape.xy), dot(d, vec2(-shape.y, shape.x))) * scale, half_size = shape.zw * scale;
    float cover, rim = 0.0;
    if (at.w == 0.0) {  // a box with a dark rim, so that neighbours stay apart
        vec2 c = clamp(half_size + 0.5 - abs(q), 0.0, 1.0), wide = clamp(half_size + 0.5 + RIM - abs(q), 0.0, 1.0);
        cover = c.x * c.y;
        rim = 0.7 * (wide.x * wide.y - cover);
    } else {
        cover = clamp(half_size.x - length(q) + 0.5, 0.0, 1.0);
        if (at.w == 2.0) cover *= clamp(length(q) - 0.55 * half_size.x + 0.5, 0.0, 1.0);
    }
    float front = at.w == 0.0 ? 0.5 * smoothstep(1.4, 2.2, half_size.x) * clamp(q.x - 0.3 * half_size.x + 0.5, 0.0,
        1.0) : 0.0;
    color = vec4(mix(tint.rgb, vec3(1.0), front) * cover / max(cover + rim, 1e-3),
        (cover + rim) * (tint.a > 0.0 || at.w == 1.0 ? inside(p) : 1.0));
}
"""
)
BAND_VERTEX = """
#version 330 core
layout(location = 0) in vec2 point;
layout(location = 1) in vec2 aside;
uniform float half_width;
uniform vec4 area;  // corner, 2 / extent
void main() { gl_Position = vec4((point + aside * half_width - area.xy) * area.zw - 1.0, 0.0, 1.0); }
"""
BAND_FRAGMENT = """
#version 330 core
uniform vec3 shade;
out vec4 color;
void main() { color = vec4(shade, 1.0); }
"""
