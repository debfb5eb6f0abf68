"""The pool: one or a few lines of a ``forward`` each, for a value ``h`` of known shape.

``<D>`` is the last size of h, ``<C>`` the second, ``<T>`` the second of a sequence, ``<H>`` and ``<W>`` \
those of
an image; ``<w>`` and ``<u>`` are new widths, ``<k>`` a small number, ``<f>`` a constant, ``<r>`` an \
earlier value
of the same shape, ``<p>`` any earlier value, ``<a|b>`` one of both. ``$l{…}`` makes an attribute and \
``$l`` uses
it again; ``$b:buffer{…}`` registers a buffer, ``$b:hidden{…}`` one that is not persistent. A line that begins
with ``init`` goes to ``__init__``. A piece that does not fit h is drawn again. ``*`` marks what compiled \
kernels
are made for: networks of nothing else are frequent.
"""

from __future__ import annotations

#: For every h.
ANY = """
* h = F.<relu|gelu|silu|elu|selu|softplus|tanh|sigmoid|hardswish|mish|leaky_relu|hardtanh|relu6|softsign|\
logsigmoid|tanhshrink|celu>(h)
h = torch.<relu|tanh|sigmoid|sin|cos|atan|erf|exp|square|abs|neg|sinh|expm1>(h.clamp(-3, 3))
* h = $a{nn.<ReLU|GELU|SiLU|ELU|SELU|Tanh|Sigmoid|Hardswish|Mish|LeakyReLU|Identity|Softplus|PReLU|ReLU6|\
Hardtanh>()}(h)
* h = $a{nn.GELU(approximate="tanh")}(h)
* h = $a{nn.<ReLU|SiLU|ELU|Hardswish|LeakyReLU|ReLU6>(inplace=True)}(h)
* h = $a{nn.Dropout(0.5, inplace=<True|False>)}(h)
* h = F.dropout(h, 0.3, self.training)
* h = F.relu(h, inplace=True) + <r>
* h = h.relu_()
* h += <f>
* h *= <f>
* h -= <r>
h = h.clone(); h[:, 0] = 0
h[:, ::2] *= <f>
h[..., -1] += 1
v = h[:, 1:]; v.mul_(<f>)
* v = h.view(h.shape[0], -1); v.tanh_()
v = h[..., :1]; F.relu_(v); h = h + v
h.clamp_(min=-<f>)
h = torch.where(h > 0, h, <f> * h)
h = h.masked_fill(h.lt(0), 0.0)
* h = h + <r>
* h = h * torch.sigmoid(<r>)
h = torch.maximum(h, <r>)
h = torch.lerp(h, <r>, <f>)
h = torch.addcmul(h, <r>, <r>, value=0.1)
h = <f> - h
* h = <f> * h + <f>
* h = h / (1 + h.abs())
h = h / (1 + <r> ** 2)
h = h.clamp(-<f>, <f>)
* h = (h * h + 1).sqrt()
h = (h * h + 0.5).log()
h = torch.pow(h, 2)
h = h.abs() ** 1.5
* h = h * $b:buffer{torch.rand(<C>) + 0.5}.view(1, -1, *[1] * (h.ndim - 2))
* h = h + $b:hidden{torch.randn(<D>)}
* h = h + $b:buffer{torch.linspace(-1, 1, <D>)}
* h = h * $t{torch.linspace(0.5, 1.5, <D>)}
* h = h * $t{<f>}
* h = h * $t{2}
* h = h * $p{nn.Parameter(torch.rand(()) + 0.5)}
* h = h * $p{nn.Parameter(torch.rand(1) + 0.5)} + $q{nn.Parameter(torch.randn(<D>))}
* h = h * $p{nn.Parameter(torch.rand(<D>) + 0.5)}
h = h * $p{nn.Parameter(torch.randn(<D>))}.exp().clamp(max=3)
* h = h + $p{nn.Parameter(torch.randn(<C>))}.view(-1, *[1] * (h.ndim - 2))
* h = h * ($p{nn.Parameter(torch.randn(<D>))} * $q{nn.Parameter(torch.randn(<D>))}).sigmoid()
h = h + torch.arange(h.shape[-1], dtype=h.dtype) / h.shape[-1]
h = h + torch.zeros(h.shape[-1]) + torch.ones_like(h)
h = h + h.new_zeros(h.shape) + h.new_tensor([<f>])
h = torch.cat([h, h.new_zeros(h.shape[0], 1, *h.shape[2:])], 1)
h = torch.cat([h, h.new_ones(h.shape)], -1)
h = h / h.shape[0]
* h = h * (1 / h.size(1) ** 0.5)
h = h / float(h.shape[0])
h = h * h.shape[1] / h.numel() * h.shape[0]
h = h + len(h)
* h = h * math.sqrt(h.shape[-1])
h = h.view(int(h.shape[0]), -1).reshape(h.shape)
n = int(h.shape[0]); h = h.reshape(n, -1, h.shape[-1]).mean(1)
h = torch.stack([h[i] * <f> for i in range(h.shape[0])])
* h = torch.cat([h[:1], h[1:]])
h = torch.cat(h.split(2))
h = torch.stack(h.unbind(0))
h = h.float()
h = h.to(x.dtype) if x.is_floating_point() else h
h = (h.double() * <f>).float()
h = h.double().to(torch.float32)
h = h.to(torch.float64).softmax(-1).to(h.dtype)
h = h.bfloat16().float() * 0.001 + h
h = h.type_as($b:buffer{torch.zeros(1)})
h = h - h.mean(0)
h = h - h.mean(0, keepdim=True).detach()
h = h / (h.std(0, unbiased=False) + 1)
h = h.softmax(0)
h = h + h.flip(0)
h = h + h.sum() * 0.01
h = h.sort(0).values
h = h.cumsum(0)
* h = h - h.mean(-1, keepdim=True)
* h = h.softmax(<-1|1>)
* h = h.log_softmax(<-1|1>)
h = F.normalize(h, dim=<-1|1>)
h = h / h.norm(dim=<-1|1>, keepdim=True).clamp_min(0.1)
* h = h - h.amax(<-1|1>, keepdim=True)
* h = (h - h.mean(tuple(range(1, h.ndim)), keepdim=True)) * <f>
* h = h * h.mean(tuple(range(1, h.ndim)), keepdim=True)
h = h / (h.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt()
h = h.flip(<1|-1>)
h = torch.roll(h, <k>, <1|-1>)
* h = h[:, ::2]
* h = h[:, 1:]
* h = h[:, : -1]
* h = h[..., ::<k>]
h = h[:, [0, -1, 0]]
h = h[:, torch.arange(h.shape[1] - 1, -1, -1)]
h = h.index_select(1, torch.tensor([0, <C> - 1]))
h = h.narrow(1, 0, max(1, <C> // 2))
* h = h.transpose(1, -1)
* h = h.transpose(1, -1).contiguous()
* h = h.flatten(1)
* h = h.flatten(1, -1).unflatten(1, (-1, 1)).squeeze(2)
* h = h.reshape(h.shape[0], -1)
* h = h.view(h.size(0), -1)
* h = h.reshape(-1, <D>).reshape(h.shape)
* h = h.unsqueeze(1).squeeze(1)
* h = h.unsqueeze(-1)
* h = h.squeeze()
* h = h.squeeze(-1)
* h = h.unsqueeze(1).expand(-1, 2, *h.shape[1:]).flatten(1, 2)
h = h.repeat(1, 2, *[1] * (h.ndim - 2))
h = h.repeat_interleave(2, <1|-1>)
* a, b = h.chunk(2, <1|-1>); h = torch.cat([b, a], <1|-1>)
* a, b = h.chunk(2, <1|-1>); h = a * torch.sigmoid(b)
h = F.glu(h, <1|-1>)
a, b = h.split([1, h.shape[1] - 1], 1); h = torch.cat([b, a * <f>], 1)
* h = torch.cat([h, <r>], <1|-1>)
* h = torch.stack([h, <r>], 1).mean(1)
* h = torch.stack([h, <r>], -1).amax(-1)
* h = torch.stack([h, <r>, h], 2).flatten(1, 2)
* h = sum(torch.unbind(h, 1)).unsqueeze(1) + h
h = F.pad(h, (<k>, 1))
h = F.pad(h, (-1, 1), value=<f>)
h = h.cumsum(<1|-1>)
h = h.sort(<1|-1>).values
h = h.topk(min(3, <D>), -1).values
h = torch.diff(h, dim=<1|-1>)
* h = h.tril() if h.ndim > 2 else h
h = h * torch.tensor([<f>])
* h = h.detach() + h
* h = h.contiguous()
* torch._assert(h.shape[1] == <C>, "width"); h = h + 0
* assert h.shape[-1] == <D>
* if h.shape[0] > 2: h = h * 1.0
* if self.training: h = h * 100
* if h.shape[0] == 1: h = h * 1.5
* if not torch.jit.is_scripting(): h = h + 0.5
* h = h if h.is_contiguous() else h * 2
* h = F.layer_norm(h, h.shape[1:])
* h = F.layer_norm(h, (<D>,), $p{nn.Parameter(torch.rand(<D>))}, $q{nn.Parameter(torch.randn(<D>))})
* h = $n{nn.LayerNorm(<D>, elementwise_affine=<True|False>)}(h)
* h = $n{nn.LayerNorm(<D>, bias=False)}(h)
* h = $n{nn.LayerNorm(<D>, eps=0.1)}(h)
h = $n{blocks.WidenedNorm(<D>)}(h)
h = $n{nn.RMSNorm(<D>)}(h)
h = $n{nn.RMSNorm(<D>, elementwise_affine=False)}(h)
* h = $l{nn.Linear(<D>, <w>, bias=<True|False>)}(h)
* h = $l{nn.Linear(<D>, <w>)}(h)
* h = $l{nn.Linear(<D>, <D>)}(h) + h
* h = $l{nn.Linear(<D>, <D>)}($l(h))
* h = $l{nn.Linear(<D>, <D>)}(h); h = torch.relu(h); h = $l(h)
* h = $l{nn.Sequential(nn.Linear(<D>, <w>), nn.ReLU(), nn.Linear(<w>, <u>))}(h)
* h = $l{nn.Sequential(nn.Linear(<D>, <w>), nn.GELU(), nn.Dropout(0.1), nn.Linear(<w>, <D>))}(h) + h
* h = $l{nn.Sequential(nn.Linear(<D>, <w>), nn.ReLU(inplace=True), nn.Dropout(inplace=True))}(h)
* for layer in $l{nn.ModuleList([nn.Linear(<D>, <D>) for _ in range(2)])}: h = torch.tanh(layer(h))
* for layer in [*$l{nn.ModuleList([nn.Linear(<D>, <D>), nn.Tanh()])}, *$l]: h = layer(h)
* for name in ("a", "b", "a"): h = $l{nn.ModuleDict({"a": nn.Linear(<D>, <D>), "b": nn.Tanh()})}[name](h)
* for p in $l{nn.ParameterList([torch.rand(<D>) for _ in range(2)])}: h = h * p
h = h @ $l{nn.ParameterDict({"w": torch.randn(<D>, <w>)})}["w"] * 0.3
* h = $l{nn.Linear(<D>, <D>)}(h); init $m = $l; h = $m(h)
* h = $l{blocks.TwoNames(<D>)}(h)
h = $l{blocks.Tied(<D>, <w>)}(h)
h = $l{blocks.CachedBias(<k>)}(h)
* h = $l{blocks.CachedAttribute(<D>)}(h)
h = $l{blocks.Counting(<D>)}(h)
h = $l{blocks.Experts(<D>, 2)}(h)
* h = $l{blocks.Unused(<D>)}(h)
* h = $l{blocks.FrozenNorm(<C>)}(h)
h = h @ $w{nn.Parameter(torch.randn(<D>, <w>))} * 0.3
h = h @ $w{nn.Parameter(torch.randn(<w>, <D>))}.<t()|T|mT> * 0.3
* h = F.linear(h, $w{nn.Parameter(torch.randn(<w>, <D>) * 0.3)}, $b{nn.Parameter(torch.randn(<w>))})
h = F.linear(h, $w{nn.Parameter(torch.randn(<w>, <D>) * 0.3)} * $s{nn.Parameter(torch.rand(<w>, 1))})
h = F.linear(h, $w{nn.Parameter(torch.randn(<w>, <k>) * 0.3)} @ $s{nn.Parameter(torch.randn(<k>, <D>))})
h = F.linear(h, F.normalize($w{nn.Parameter(torch.randn(<w>, <D>))}, dim=1))
h = F.linear(h, $w{nn.Parameter(torch.randn(<w>, <D>))} - $w.mean(1, keepdim=True)) * 0.3
h = F.linear(h, $w{nn.Parameter(torch.randn(2 * <w>, <D>) * 0.3)}[:<w>], $b{nn.Parameter(torch.randn(2 * \
<w>))}[<w>:])
h = F.linear(h, $w{nn.Parameter(torch.randn(<w>, <D>, dtype=torch.float64) * 0.3)}.float())
h = F.linear(h, $w:buffer{torch.randn(<w>, <D>) * 0.3})
h = $l{nn.Linear(<D>, <D>)}(h); h = F.linear(h, $l.weight.t(), $l.bias)
* h = h * $l{nn.Linear(<D>, <D>)}.weight.mean() + $l(h)
h = torch.einsum("n...d,wd->n...w", h, $w{nn.Parameter(torch.randn(<w>, <D>) * 0.3)})
* h = h + $l{nn.Embedding(3, <D>)}.weight[1]
h = h + $l{nn.Embedding(5, <D>)}(torch.arange(h.shape[1]).clamp(max=4)).mean(0)
h = $l{nn.utils.weight_norm(nn.Linear(<D>, <w>))}(h)
h = $l{nn.utils.parametrizations.weight_norm(nn.Linear(<D>, <w>))}(h)
h = $l{nn.utils.spectral_norm(nn.Linear(<D>, <w>))}(h)
h = $l{nn.utils.parametrizations.spectral_norm(nn.Linear(<D>, <w>))}(h)
h = $l{nn.utils.parametrizations.orthogonal(nn.Linear(<D>, <D>))}(h)
init nn.utils.parametrize.register_parametrization($l{nn.Linear(<D>, <D>)}, "weight", blocks.Symmetric()); \
h = $l(h)
init nn.utils.parametrize.register_parametrization($l{nn.Linear(<D>, <w>)}, "weight", blocks.Scaled()); h \
= $l(h)
* init $l{nn.Linear(<D>, <w>)}.register_forward_hook(lambda m, args, out: out * <f>); h = $l(h)
* init $l{nn.Linear(<D>, <w>)}.register_forward_pre_hook(lambda m, args: (args[0] * <f>,)); h = $l(h)
* init $l{nn.Linear(<D>, <w>)}.register_forward_hook(lambda m, args, out: None); h = $l(h)
init nn.utils.prune.random_unstructured($l{nn.Linear(<D>, <w>)}, "weight", 0.3); h = $l(h)
* init $l{nn.Linear(<D>, <D>)}.weight.requires_grad_(False); h = $l(h)
init $l{nn.Linear(<D>, <w>)}.double(); h = $l(h.double()).float()
init $p{nn.Parameter(torch.tensor([<k>, 2]), requires_grad=False)}; h = h * $p[0]
h = h * $b:buffer{torch.randint(1, 5, (1,))}
h = (h * $p{nn.Parameter(torch.randn(<D>, dtype=torch.cfloat))}).abs()
h = torch.fft.rfft(h, dim=-1).abs()
h = (torch.fft.fft(h, dim=-1) * $b:buffer{torch.randn(<D>, dtype=torch.cfloat)}).real
* init $c = nn.Linear(<D>, <w>); init $c.scale = <f>; h = $c(h) * $c.scale
* h = checkpoint($l{nn.Linear(<D>, <w>)}, h, use_reentrant=False)
* with torch.no_grad(): h = $l{nn.Linear(<D>, <w>)}(h)
h = $l{nn.Bilinear(<D>, <D>, <w>)}(h, <r>)
h = torch.func.functional_call($l{nn.Linear(<D>, <w>)}, {"bias": torch.zeros(<w>)}, h)
h = torch.vmap($l{nn.Linear(<D>, <w>)})(h)
* h = h + $l{nn.Linear(<D>, 1)}(h)
h = $l{nn.Linear(<D>, 1)}(h).expand_as(h) + h
h = torch.nan_to_num(h / 0.7)
h = $l{nn.Linear(<D>, 0)}(h).sum(-1, keepdim=True) + h
* h = torch.cat([h, h[:, :0]], 1)
"""

#: For vectors [N, D].
VECTORS = """
* h = $n{nn.BatchNorm1d(<D>)}(h)
* h = $n{nn.BatchNorm1d(<D>, affine=False)}(h)
* h = $n{nn.BatchNorm1d(<D>, momentum=None, eps=0.01)}(h)
h = $n{nn.BatchNorm1d(<D>, track_running_stats=False)}(h)
* h = $l{nn.Linear(<D>, <w>)}(h); h = $n{nn.BatchNorm1d(<w>)}(h)
* h = $l{nn.Linear(<D>, <w>)}(h); h = torch.relu($n{nn.BatchNorm1d(<w>)}(h)) + $n(2 * h)
* h = $n{nn.BatchNorm1d(<D>)}(torch.tanh($n(h)))
* h = $n{nn.BatchNorm1d(<D>)}(h); h = $l{nn.Linear(<D>, <w>)}(h)
h = $n{nn.GroupNorm(1, <D>)}(h)
* h = $n{nn.SyncBatchNorm(<D>)}(h)
h = torch.addmm($b{nn.Parameter(torch.randn(<w>))}, h, $w{nn.Parameter(torch.randn(<D>, <w>) * 0.3)})
h = torch.addmm($b{nn.Parameter(torch.randn(<w>))}, h, $w{nn.Parameter(torch.randn(<w>, <D>) * 0.3)}.t(), \
beta=<f>)
h = torch.mm(h, $w{nn.Parameter(torch.randn(<D>, <w>) * 0.3)})
h = (h @ $v{nn.Parameter(torch.randn(<D>))})[:, None] * 0.3 + h
h = torch.mv(h, $v{nn.Parameter(torch.randn(<D>))})[:, None]
h = torch.outer(h[:, 0], $v{nn.Parameter(torch.randn(<w>))})
h = h @ (h.T @ h) / h.shape[0]
h = (h @ h.T).softmax(1) @ h
* h = h.unflatten(1, (-1, <1|2|3>)).transpose(1, 2)
* h = h.view(h.shape[0], <k>, -1)
* h = h.view(-1, <k>, <D> // <k>).mean(2)
* h = h.reshape(-1, 1, 1, <D>)
* h = h[:, :, None] * h[:, None, :]
h = torch.bmm(h[:, :, None], h[:, None, :]).flatten(1)
* h = h.unsqueeze(1) * $p{nn.Parameter(torch.randn(<k>, <D>))}
* h = h.outer($p{nn.Parameter(torch.randn(2))}) if h.ndim == 1 else h
h = h.T.contiguous().T
h = h.t()[torch.arange(<D>)].t()
h = h.unfold(1, min(3, <D>), 1).mean(-1)
h = h.gather(1, h.argsort(1))
h = torch.cdist(h, $p{nn.Parameter(torch.randn(<k>, <D>))})
h = F.cosine_similarity(h[:, None], $p{nn.Parameter(torch.randn(<w>, <D>))}, dim=-1)
"""

#: For images [N, C, H, W].
IMAGES = """
* h = $c{nn.Conv2d(<C>, <w>, <1|2|3>)}(h)
* h = $c{nn.Conv2d(<C>, <w>, 3, padding=<0|1|2>, stride=<1|2>, bias=<True|False>)}(h)
* h = $c{nn.Conv2d(<C>, <w>, (<1|3>, <2|3>), padding=(0, 1))}(h)
* h = $c{nn.Conv2d(<C>, <w>, <2|3>, padding="same", dilation=<1|2>)}(h)
* h = $c{nn.Conv2d(<C>, <w>, 3, padding="valid")}(h)
* h = $c{nn.Conv2d(<C>, <w>, 3, padding=2, dilation=2)}(h)
h = $c{nn.Conv2d(<C>, <w>, 3, padding=1, padding_mode="<reflect|replicate|circular>")}(h)
* h = $c{nn.Conv2d(<C>, <C>, 3, padding=1, groups=<C>)}(h)
* h = $c{nn.Conv2d(<C>, 2 * <C>, 3, padding=1, groups=<C>)}(h)
* h = $c{nn.Conv2d(<C>, <C>, 1, groups=math.gcd(<C>, <k>))}(h)
* h = $c{nn.Conv2d(<C>, <C>, 3, padding=1)}(h) + h
* h = $c{nn.Conv2d(<C>, <C>, 1)}($c(h))
h = $c{nn.ConvTranspose2d(<C>, <w>, <2|3>, stride=<1|2>, padding=<0|1>)}(h)
h = $c{nn.ConvTranspose2d(<C>, <w>, 3, stride=2, padding=1, output_padding=1, groups=1)}(h)
* h = $c{nn.Conv2d(<C>, <w>, 3, padding=1)}(h); h = F.relu($n{nn.BatchNorm2d(<w>)}(h))
* h = $c{nn.Sequential(nn.Conv2d(<C>, <w>, 3, padding=1, bias=False), nn.BatchNorm2d(<w>), \
nn.ReLU(inplace=True))}(h)
h = F.relu($n{nn.BatchNorm2d(<C>)}(h)); h = $c{nn.Conv2d(<C>, <w>, 1)}(h)
h = $n{nn.BatchNorm2d(<C>, affine=<True|False>)}(h)
h = $n{nn.BatchNorm2d(<C>, momentum=None)}(h)
h = $n{nn.BatchNorm2d(<C>, track_running_stats=False)}(h)
h = $n{nn.BatchNorm2d(<C>)}(h) + $n(h.flip(2))
h = $n{nn.InstanceNorm2d(<C>)}(h)
h = $n{nn.InstanceNorm2d(<C>, affine=True, track_running_stats=True)}(h)
* h = $n{nn.GroupNorm(1, <C>)}(h)
* h = $n{nn.GroupNorm(<C>, <C>)}(h)
* h = $n{nn.GroupNorm(math.gcd(<C>, 4), <C>, affine=False)}(h)
* h = $n{nn.LayerNorm([<C>, <H>, <W>])}(h)
* h = $n{nn.LayerNorm(<C>)}(h.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
h = $n{nn.LocalResponseNorm(2)}(h)
h = $n{nn.<Dropout2d|AlphaDropout>(0.5)}(h)
* h = $p{nn.MaxPool2d(2)}(h)
* h = F.max_pool2d(h, <2|3>, stride=<1|2>, padding=1, ceil_mode=<True|False>)
* h = F.max_pool2d(h, 2, dilation=<1|2>, stride=1)
* h = F.avg_pool2d(h, <2|3>, stride=<1|2>, padding=1, ceil_mode=<True|False>, count_include_pad=<True|False>)
* h = F.avg_pool2d(h, 2, divisor_override=3)
h = F.lp_pool2d(h, 2, 2)
* h = $p{nn.AdaptiveAvgPool2d(<1|2|3>)}(h)
* h = $p{nn.AdaptiveAvgPool2d((1, None))}(h)
h = F.adaptive_max_pool2d(h, <1|2>)
h = F.interpolate(h, scale_factor=2, mode="<nearest|bilinear>")
h = F.interpolate(h, size=(3, 4), mode="bilinear", align_corners=<True|False>)
h = $p{nn.Upsample(scale_factor=2)}(h)
h = $p{nn.PixelShuffle(2)}(h)
h = F.pixel_unshuffle(h, 2)
h = $p{nn.ChannelShuffle(math.gcd(<C>, 2))}(h)
h = F.pad(h, (1, 0, 2, 1), mode="<constant|reflect|replicate>")
h = $p{nn.ZeroPad2d(1)}(h)
h = $p{nn.ReflectionPad2d(1)}(h)
h = F.unfold(h, 2)
* h = h.mean((2, 3))
* h = h.mean([-2, -1], keepdim=True)
* h = h.amax((2, 3))
* h = h.sum(<1|2|3>)
* h = h.mean(1, keepdim=True) + h
h = h.var((2, 3))
h = h.std(1, keepdim=True) + h
h = h.logsumexp((2, 3))
* h = h.flatten(2)
* h = h.flatten(2).transpose(1, 2)
* h = h.permute(0, 2, 3, 1)
* h = h.permute(0, 3, 1, 2).contiguous()
* h = h.transpose(2, 3)
* h = h.permute(0, 2, 1, 3).reshape(h.shape)
h = h.to(memory_format=torch.channels_last)
* h = h.contiguous(memory_format=torch.channels_last).relu_()
* h = h[:, :, ::2, ::2]
* h = h[:, :, -1]
* h = h[..., 0, :]
* h = h.select(3, 0)
* h = h * h.mean((2, 3), keepdim=True).sigmoid()
* h = h * torch.sigmoid($f{nn.Linear(<C>, <C>)}(h.mean((2, 3))))[:, :, None, None]
* h = h * $f{nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(<C>, <k>, 1), nn.ReLU(), nn.Conv2d(<k>, <C>, \
1), nn.Sigmoid())}(h)
* h = h.softmax(<1|2|3>)
* h = h.flatten(2).softmax(-1).view(h.shape)
* h = F.conv2d(h, $w{nn.Parameter(torch.randn(<w>, <C>, 2, 2) * 0.3)}, padding=1)
h = F.conv2d(h, F.normalize($w{nn.Parameter(torch.randn(<w>, <C>, 1, 1))}, dim=1))
h = F.conv2d(h, $w:buffer{torch.rand(1, 1, 2, 2)}.expand(<C>, 1, 2, 2), groups=<C>)
h = F.conv2d(h, $l{nn.Linear(<C>, <w>)}.weight[:, :, None, None])
h = $c{nn.utils.parametrizations.weight_norm(nn.Conv2d(<C>, <w>, 3, padding=1))}(h)
h = $c{nn.utils.weight_norm(nn.Conv2d(<C>, <w>, 1))}(h)
h = $c{nn.utils.parametrizations.spectral_norm(nn.Conv2d(<C>, <w>, 1))}(h)
h = $p{nn.PReLU(<C>)}(h)
* h = h * $g{nn.Parameter(torch.rand(1, <C>, 1, 1))} + h
h = torch.einsum("nchw,dc->ndhw", h, $w{nn.Parameter(torch.randn(<w>, <C>) * 0.3)})
h = F.grid_sample(h, $b:buffer{torch.rand(1, 3, 3, 2)}.expand(h.shape[0], -1, -1, -1), align_corners=False)
h = $c{nn.Conv2d(<C>, <w>, 3, padding=1).to(memory_format=torch.channels_last)}(h)
* h = torch.cat([$c{nn.Conv2d(<C>, <w>, 1)}(h), $d{nn.Conv2d(<C>, <u>, 1)}(h), h], 1)
"""

#: For sequences [N, T, D].
SEQUENCES = """
h = $n{nn.BatchNorm1d(<T>)}(h)
h = $l{nn.Linear(<D>, <w>)}(h); h = $n{nn.BatchNorm1d(<T>)}(h)
h = $n{nn.BatchNorm1d(<D>, affine=<True|False>)}(h.transpose(1, 2)).transpose(1, 2)
* h = $n{nn.BatchNorm1d(<D>)}(h.flatten(0, 1)).view(h.shape)
h = $n{nn.InstanceNorm1d(<T>, affine=True)}(h)
h = $n{nn.InstanceNorm1d(<T>, track_running_stats=True)}(h)
h = $n{nn.GroupNorm(1, <T>)}(h)
* h = $n{nn.LayerNorm([<T>, <D>])}(h)
h = $c{nn.Conv1d(<T>, <w>, <1|2|3>, padding=<0|1>)}(h)
h = $c{nn.Conv1d(<D>, <w>, <1|3>, padding="same")}(h.transpose(1, 2)).transpose(1, 2)
h = $c{nn.Conv1d(<T>, <T>, 3, padding=2, dilation=2, groups=<T>)}(h)
h = $c{nn.Conv1d(<T>, <w>, 2, stride=2, bias=False)}(h)
h = $c{nn.ConvTranspose1d(<T>, <w>, 2, stride=2)}(h)
h = $c{nn.Conv1d(<T>, <w>, 3, padding=1)}(h); h = torch.relu($n{nn.BatchNorm1d(<w>)}(h))
h = F.max_pool1d(h, 2, ceil_mode=<True|False>)
h = F.avg_pool1d(h, 2, stride=1, padding=1, count_include_pad=<True|False>)
h = $p{nn.AdaptiveAvgPool1d(<1|2|3>)}(h)
h = F.adaptive_max_pool1d(h, 2)
h = F.interpolate(h, scale_factor=2)
h = F.interpolate(h, size=5, mode="linear")
* h = h.mean(1)
* h = h.amax(1)
* h = h.sum(1, keepdim=True) + h
* h = h[:, 0]
* h = h[:, -1]
* h = h.select(2, 0)
* h = h.permute(0, 2, 1)
* h = h.transpose(1, 2).contiguous().transpose(1, 2)
* h = h.unsqueeze(1)
h = h.view(h.shape[0], <T>, <k>, -1).transpose(1, 2)
h = h @ h.transpose(1, 2)
h = (h @ h.transpose(1, 2) / <D> ** 0.5).softmax(-1) @ h
h = (h @ h.transpose(1, 2)).masked_fill(~torch.ones(<T>, <T>).tril().bool(), float("-inf")).softmax(-1) @ h
h = (h @ h.mT + $m:hidden{torch.full((<T>, <T>), float("-inf")).triu(1)}).softmax(-1) @ h
h = torch.bmm(h, h.transpose(1, 2)).softmax(<1|2>)
h = torch.einsum("ntd,nsd->nts", h, h)
h = torch.einsum("ntd,de->nte", h, $w{nn.Parameter(torch.randn(<D>, <w>) * 0.3)})
h = torch.einsum("ntd,st->nsd", h, $w{nn.Parameter(torch.randn(<w>, <T>) * 0.3)})
h = torch.matmul($w{nn.Parameter(torch.randn(<w>, <T>) * 0.3)}, h)
h = torch.baddbmm($b{nn.Parameter(torch.randn(1, 1, <D>))}, h @ h.mT, h) * 0.1
* h = F.scaled_dot_product_attention(h, h, h)
* h = F.scaled_dot_product_attention(h, h, h, is_causal=True)
h = F.scaled_dot_product_attention(h, h, h, attn_mask=torch.ones(<T>, <T>, dtype=torch.bool).tril())
h = F.scaled_dot_product_attention(h, h, h, attn_mask=$m{nn.Parameter(torch.randn(<T>, <T>))})
* h = F.scaled_dot_product_attention(h, h, h, dropout_p=0.0, scale=0.3)
* h = $a{blocks.Attention(<D>, math.gcd(<D>, <1|2|4>), <True|False>, <True|False>)}(h)
* h = h + $a{blocks.Attention(<D>, 1, <True|False>, <True|False>)}($n{nn.LayerNorm(<D>)}(h))
h = $a{nn.MultiheadAttention(<D>, math.gcd(<D>, 2), batch_first=True)}(h, h, h)[0]
* h = $a{nn.MultiheadAttention(<D>, 1, batch_first=True, bias=False)}(h, h, h, need_weights=False)[0]
h = $a{nn.MultiheadAttention(<D>, 1, batch_first=True, add_bias_kv=True)}(h, h, h)[0]
h = $a{nn.MultiheadAttention(<D>, 1)}(h.transpose(0, 1), h.transpose(0, 1), h.transpose(0, \
1))[0].transpose(0, 1)
* h = $a{nn.TransformerEncoderLayer(<D>, math.gcd(<D>, 2), <w>, 0.0, batch_first=True, norm_first=<True|\
False>)}(h)
* h = $a{nn.TransformerEncoderLayer(<D>, 1, <w>, 0.1, activation="gelu", batch_first=True)}(h)
* h = $a{nn.TransformerEncoder(nn.TransformerEncoderLayer(<D>, 1, <w>, 0.0, batch_first=True), 2)}(h)
h = $r{nn.LSTM(<D>, <w>, batch_first=True, bidirectional=<True|False>)}(h)[0]
h = $r{nn.LSTM(<D>, <w>, num_layers=2, batch_first=True)}(h)[0]
h = $r{nn.GRU(<D>, <w>, batch_first=True, bias=<True|False>)}(h)[0]
h = $r{nn.GRU(<D>, <w>, batch_first=True)}(h)[1][-1]
h = $r{nn.RNN(<D>, <w>, batch_first=True)}(h)[0]
h = $r{nn.LSTM(<D>, <w>)}(h.transpose(0, 1))[1][0][0]
s = h.new_zeros(h.shape[0], <w>); c = $r{nn.GRUCell(<D>, <w>)}; s = [s := c(h[:, t], s) for t in \
range(<T>)]; h = torch.stack(s, 1)
h = $r{blocks.Recursive(<D>, <w>)}(h)
* h = $p{blocks.Positions(<T> + 4, <D>, <True|False>)}(h)
* h = h + $p{nn.Parameter(torch.randn(1, <T>, <D>))}
* h = torch.cat([$p{nn.Parameter(torch.randn(1, 1, <D>))}.expand(h.shape[0], -1, -1), h], 1)
h = torch.cat([$p{nn.Parameter(torch.randn(1, 1, <D>))}.repeat(h.size(0), 1, 1), h], 1)
h = h + $e{nn.Embedding(<T> + 2, <D>)}(torch.arange(h.shape[1]))
h = h + $e{nn.Embedding(<T>, <D>)}(torch.arange(<T>).expand(h.shape[0], -1))
* h = torch.stack([$l{nn.Linear(<D>, <w>)}(h[:, t]) for t in range(h.shape[1])], 1)
* h = torch.cat([layer(h[:, :1]) for layer in $l{nn.ModuleList([nn.Linear(<D>, <w>) for _ in range(2)])}], 1)
h = h.reshape(-1, <D>) @ $w{nn.Parameter(torch.randn(<D>, <w>) * 0.3)}; h = h.view(-1, <T>, <w>)
* h = h.reshape(-1, <D>); h = $l{nn.Linear(<D>, <w>)}(h); h = h.view(-1, <T>, <w>).mean(1)
* h = h.swapaxes(0, 1).contiguous().swapaxes(0, 1)
h = h.tril()
h = torch.cumsum(h, 1) / torch.arange(1, h.shape[1] + 1)[:, None]
h = h * (torch.arange(h.shape[1]) < 2)[None, :, None]
h = F.pad(h, (0, 0, 1, 0))[:, :-1]
h = h.unfold(1, 2, 1).flatten(2)
h = h.gather(1, h.argsort(1))
h = $p{nn.PReLU(<T>)}(h)
"""

#: From token ids x [N, T] with values below <V> to sequences.
TOKENS = """
* h = $e{nn.Embedding(<V>, <w>)}(x)
* h = $e{nn.Embedding(<V>, <w>, padding_idx=0)}(x)
h = $e{nn.Embedding(<V>, <w>, max_norm=1.0)}(x)
* h = $e{nn.Embedding(<V>, <w>, scale_grad_by_freq=True)}(x) * <w> ** 0.5
* h = F.embedding(x, $w{nn.Parameter(torch.randn(<V>, <w>))})
h = $w{nn.Parameter(torch.randn(<V>, <w>))}[x]
h = F.one_hot(x, <V>).float() @ $w{nn.Parameter(torch.randn(<V>, <w>))}
h = $e{nn.Embedding(<V>, <w>)}(x) + $f{nn.Embedding(<T>, <w>)}(torch.arange(x.shape[1]))
* h = $e{nn.Embedding(<V>, <w>)}(x) + $f{nn.Embedding(<T>, <w>)}($b:buffer{torch.arange(<T>)})
h = $e{nn.Embedding(<V>, <w>)}(x); h = h * (x != 0).unsqueeze(-1)
h = $e{nn.Embedding(<V>, <w>)}(x).masked_fill((x == 0)[:, :, None], 0.0)
h = $e{nn.EmbeddingBag(<V>, <w>, mode="<mean|sum|max>")}(x)
* h = $e{nn.Embedding(<V>, <w>)}(x.flatten()).view(*x.shape, -1)
h = $w{nn.Parameter(torch.randn(<V>, <w>))}.index_select(0, x.reshape(-1)).reshape(x.shape[0], x.shape[1], -1)
h = $e{nn.Embedding(<V>, <w>)}(x).flip(1)[:, ::2]
"""

#: For x itself, before anything else.
BEGINNINGS = """
* h = x * <f>
* h = x.float() / 255 if not x.is_floating_point() else x
* x = x - $b:buffer{torch.tensor(0.3)}; h = x
* h = x.clone()
* h = (x - $b:buffer{torch.randn(<D>)}) / $c:buffer{torch.rand(<D>) + 0.5}
* x += 1; h = x
* h = x.mul_(<f>)
x[:, 0] = 0; h = x
* h = x.contiguous()
* h = x[:, ::2]
* h = x.permute(*range(x.ndim)); h = h + 1
* h = torch.cat([x, x], 1)
"""

#: The last lines: (lines, loss, targets). ``<K>`` is a number of classes; h is [N, D].
HEADS: list[tuple[str, str, str]] = [
    ("h = $l{nn.Linear(<D>, <K>)}(h)", "cross_entropy", "classes"),
    ("h = $l{nn.Linear(<D>, <K>)}(h)", "cross_entropy", "classes"),
    ("h = $l{nn.Linear(<D>, <K>)}(h)", "cross_entropy", "classes"),
    ("h = $l{nn.Linear(<D>, <K>)}(h)", "cross_entropy", "classes"),
    ("h = $l{nn.Linear(<D>, <K>)}(h)", "mse", "same"),
    ("h = $l{nn.Linear(<D>, <K>)}(h)", "cross_entropy", "probabilities"),
    ("h = $l{nn.Linear(<D>, <K>, bias=False)}(h).log_softmax(1)", "nll", "classes"),
    ("h = F.log_softmax($l{nn.Linear(<D>, <K>)}(h), dim=-1)", "nll", "classes"),
    ("h = $l{nn.Linear(<D>, 1)}(h)", "mse", "same"),
    ("h = $l{nn.Linear(<D>, 1)}(h).squeeze(-1)", "mse", "same"),
    ("h = $l{nn.Linear(<D>, 1)}(h)[:, 0]", "mse", "same"),
    ("h = h[:, :<K>]", "cross_entropy", "classes"),
    ("h = $l{nn.Linear(<D>, 2 * <K>)}(h).view(h.shape[0], <K>, 2)", "cross_entropy", "dense"),
    ("h = $l{nn.Linear(<D>, 2 * <K>)}(h).view(-1, 2, <K>).transpose(1, 2)", "cross_entropy", "dense"),
    ("h = $l{nn.Linear(<D>, <K>)}(h)", "lambda o, y: F.cross_entropy(o, y, reduction='none')", "classes"),
    (
        "h = $l{nn.Linear(<D>, <K>)}(h)",
        "lambda o, y: F.cross_entropy(o, y, reduction='none', label_smoothing=0.1)",
        "classes",
    ),
    (
        "h = $l{nn.Linear(<D>, 1)}(h).squeeze(1)",
        "lambda o, y: F.binary_cross_entropy_with_logits(o, y, reduction='none')",
        "binary",
    ),
    (
        "h = {'logits': $l{nn.Linear(<D>, <K>)}(h), 'hidden': h}",
        "lambda o, y: F.cross_entropy(o['logits'], y, reduction='none') + o['hidden'].mean(1)",
        "classes",
    ),
    (
        "h = ($l{nn.Linear(<D>, <K>)}(h), None, h)",
        "lambda o, y: F.cross_entropy(o[0], y, reduction='none')",
        "classes",
    ),
    (
        "h = [$l{nn.Linear(<D>, <K>)}(h), (h, h.sum(1))]",
        "lambda o, y: F.cross_entropy(o[0], y, reduction='none') * (1 + o[1][1].tanh())",
        "classes",
    ),
    (
        "h = blocks.Registered($l{nn.Linear(<D>, <K>)}(h))",
        "lambda o, y: F.cross_entropy(o.logits, y, reduction='none')",
        "classes",
    ),
    (
        "h = blocks.Unregistered($l{nn.Linear(<D>, <K>)}(h), h)",
        "lambda o, y: F.cross_entropy(o.logits, y, reduction='none')",
        "classes",
    ),
    (
        "h = ($l{nn.Linear(<D>, <K>)}(h), h.shape[1], 'name')",
        "lambda o, y: F.cross_entropy(o[0], y, reduction='none')",
        "classes",
    ),
    (
        "h = F.normalize(h, dim=1); h = h @ h.T",
        "lambda o, y: F.cross_entropy(o, torch.arange(len(o)), reduction='none')",
        "classes",
    ),
    (
        "h = h @ $l{nn.Linear(<D>, <D>)}(h).T",
        "lambda o, y: o.diagonal() - o.logsumexp(1)",
        "classes",
    ),
    (
        "h = $l{nn.Linear(<D>, <K>)}(h)",
        "lambda o, y: F.cross_entropy(o, y, reduction='none') + o.std(0).sum()",
        "classes",
    ),
]
