"""The GLSL of cone_nocturne.py, which puts in LAYER_EXTENSION, LAYER, COLOR, INPUT, OUTPUT and COUNT by what the driver
can do."""

HEAD = """
#version 330 core
LAYER_EXTENSION
out vec4 COLOR;
void put(vec2 p, float layer, vec3 color) {  // p in the view's square, -1 to 1
    gl_Position = vec4(p, 0.0, 1.0);
    COLOR = vec4(color, 1.0);
    LAYER = int(layer);
}
"""
ROADS_VERTEX = (
    HEAD
    + """
layout(location = 0) in vec2 point;
layout(location = 1) in vec3 color;
layout(location = 2) in vec4 ego;  // x, y; cosine and sine of the heading over the view's distance
layout(location = 3) in float cone;
void main() {
    vec2 d = point - ego.xy;
    put(vec2(ego.w * d.x - ego.z * d.y, ego.z * d.x + ego.w * d.y), cone, color);
}
"""
)
INSTANCE = """
layout(location = 0) in vec4 body;  // cone, u, v, whether it casts a shadow
layout(location = 1) in vec4 shape;  // the heading's unit vector, half the length, half the width
layout(location = 2) in vec3 color;
uniform float dist;
vec2 corner(vec2 c) { return body.yz + shape.xy * c.x * shape.z + vec2(-shape.y, shape.x) * c.y * shape.w; }
"""
BODY_VERTEX = (
    HEAD
    + INSTANCE
    + """
const vec2 BODY[9] = vec2[9](vec2(1, 1), vec2(-1, 1), vec2(-1, -1), vec2(1, 1), vec2(-1, -1), vec2(1, -1), vec2(0,
    -1), vec2(0, 1), vec2(1, 0));
void main() { put(corner(BODY[gl_VertexID]) / dist, body.x, gl_VertexID < 6 ? color : vec3(1.0)); }
"""
)
SHADOW_VERTEX = (
    HEAD
    + INSTANCE
    + """
const vec2 CORNER[4] = vec2[4](vec2(1, 1), vec2(-1, 1), vec2(-1, -1), vec2(1, -1));
void main() {  // four edges, six vertices each: the quadrilateral from the edge outwards
    int edge = gl_VertexID / 6, k = gl_VertexID % 6;
    vec2 a = corner(CORNER[edge]), b = corner(CORNER[(edge + 1) % 4]);
    vec2 d = b - a;
    bool facing = d.y * a.x - d.x * a.y < 0.0;
    bool second = k == 1 || k == 2 || k == 4, far = k == 2 || k >= 4;
    vec2 p = second ? b : a;
    if (far) p *= 8.0 * dist / max(length(p), 1e-3);
    put(facing || body.w == 0.0 ? vec2(0.0) : p / dist, body.x, vec3(0.0));
}
"""
)
RING_VERTEX = (
    HEAD
    + """
layout(location = 0) in vec4 place;  // cone, u, v, the ego's heading
layout(location = 1) in vec3 shape;  // inner radius, outer radius, corners
layout(location = 2) in vec3 color;
uniform float dist;
vec2 at(int i, float radius) {  // the first corner is at the world's -y
    float a = 6.283185307179586 * float(i) / shape.z - 1.5707963267948966 - place.w;
    return (place.yz + radius * vec2(-sin(a), cos(a))) / dist;
}
void main() {
    int side = gl_VertexID / 6, k = gl_VertexID % 6;
    bool next = k == 1 || k == 2 || k == 4, outer = k == 2 || k >= 4;
    put(float(side) < shape.z ? at(side + int(next), outer ? shape.y : shape.x) : vec2(0.0), place.x, color);
}
"""
)
LAYERS_GEOMETRY = """
#version 330 core
layout(INPUT) in;
layout(OUTPUT, max_vertices = COUNT) out;
in vec4 color_to_layer[];
flat in int layer_of[];
out vec4 shade;
void main() {
    for (int i = 0; i < COUNT; i++) { gl_Layer = layer_of[i]; shade = color_to_layer[i];
        gl_Position = gl_in[i].gl_Position; EmitVertex(); }
    EndPrimitive();
}
"""
LINES_GEOMETRY = """
#version 330 core
layout(lines) in;
layout(triangle_strip, max_vertices = 4) out;
in vec4 color_to_layer[];
flat in int layer_of[];
out vec4 shade;
uniform vec3 window;  // left, bottom, side, in pixels
void main() {
    vec2 ends[2] = vec2[2](window.xy + (0.5 * gl_in[0].gl_Position.xy + 0.5) * window.z,
        window.xy + (0.5 * gl_in[1].gl_Position.xy + 0.5) * window.z);
    vec2 d = ends[1] - ends[0];
    vec2 aside = 0.5 * vec2(-d.y, d.x) / max(length(d), 1e-9), reach = abs(aside);
    vec2 low = min(ends[0], ends[1]) - reach, high = max(ends[0], ends[1]) + reach;
    if (any(greaterThan(ceil(low), ceil(high) - 1.0))) return;  // no column or no row of pixels begins inside
    for (int i = 0; i < 4; i++) {
        gl_Layer = layer_of[0];
        shade = color_to_layer[0];
        gl_Position = vec4(2.0 * (ends[i / 2] + (i % 2 == 0 ? aside : -aside) - window.xy) / window.z - 1.0, 0.0, 1.0);
        EmitVertex();
    }
    EndPrimitive();
}
"""
FRAGMENT = """
#version 330 core
in vec4 shade;
out vec4 color;
void main() { color = shade; }
"""
RESOLVE_VERTEX = """
#version 330 core
uniform vec4 box;  // of the picture: left, top, right, bottom, in pixels
uniform vec3 size;  // w, h, pictures
flat out int cone;
void main() {
    const vec2 QUAD[6] = vec2[6](vec2(0, 0), vec2(1, 0), vec2(1, 1), vec2(0, 0), vec2(1, 1), vec2(0, 1));
    vec2 p = mix(box.xy, box.zw, QUAD[gl_VertexID]);
    cone = gl_InstanceID;
    gl_Position = vec4(2.0 * p.x / size.x - 1.0, 2.0 * (p.y + float(cone) * size.y) / (size.y * size.z) - 1.0, 0.0,
        1.0);
}
"""
RESOLVE_FRAGMENT = """
#version 330 core
uniform sampler2DMSArray layers;
uniform usampler2D mask;
uniform vec3 size;
flat in int cone;
out vec4 color;
void main() {
    ivec2 p = ivec2(gl_FragCoord.x, int(gl_FragCoord.y) - cone * int(size.y));
    uint lit = texelFetch(mask, p, 0).r;
    ivec3 at = ivec3(p.x, int(size.y) - 1 - p.y, cone);
    vec3 sum = vec3(0.0);
    for (int i = 0; i < 4; i++)
        sum += float((lit >> uint(i)) & 1u) * texelFetch(layers, at, i).rgb;
    color = vec4(floor(sum * 63.75 + 0.5) / 255.0, 1.0);
}
"""
