//! Which addresses are out on the internet, and which belong to this machine, its network, or nobody.
//! Source: the IANA special-purpose address registries
//! (<https://www.iana.org/assignments/iana-ipv4-special-registry>, <https://www.iana.org/assignments/iana-ipv6-special-registry>).

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

/// What an address is for. Only [`AddressClass::Public`] ones are called unless the configuration allows more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressClass {
    /// Reachable by everybody.
    Public,
    /// This machine.
    Loopback,
    /// "This network", or no address at all.
    Unspecified,
    /// A private network (RFC 1918) or a unique local address (RFC 4193).
    Private,
    /// The shared space behind a carrier's NAT (RFC 6598).
    CarrierGrade,
    /// Only on this link.
    LinkLocal,
    /// Where a cloud keeps its machines' secrets.
    Metadata,
    /// Many receivers at once.
    Multicast,
    /// Set aside for documents, benchmarks, transitions or the future.
    Reserved,
}

impl AddressClass {
    /// As people call it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Loopback => "a loopback address",
            Self::Unspecified => "an unspecified address",
            Self::Private => "a private address",
            Self::CarrierGrade => "a carrier's internal address",
            Self::LinkLocal => "a link-local address",
            Self::Metadata => "a cloud's metadata address",
            Self::Multicast => "a multicast address",
            Self::Reserved => "a reserved address",
        }
    }
}

/// The services that hand secrets to whoever asks from inside a cloud. Some have addresses that look public.
const METADATA: [IpAddr; 6] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)), // AWS, Google Cloud, Azure, DigitalOcean, …
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 2)),   // AWS ECS
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),   // Azure's wire server
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)), // Alibaba Cloud
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),     // Oracle Cloud
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)), // AWS
];

/// What kind of address this is. An IPv6 address that carries an IPv4 one is what that one is.
pub fn classify(address: IpAddr) -> AddressClass {
    if METADATA.contains(&address) {
        return AddressClass::Metadata;
    }
    match address {
        IpAddr::V4(address) => classify_v4(address),
        IpAddr::V6(address) => match carried(address) {
            Some(inner) => classify(IpAddr::V4(inner)),
            None => classify_v6(address),
        },
    }
}

fn classify_v4(address: Ipv4Addr) -> AddressClass {
    match address.octets() {
        [0, ..] => AddressClass::Unspecified,
        [127, ..] => AddressClass::Loopback,
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => AddressClass::Private,
        [100, 64..=127, ..] => AddressClass::CarrierGrade,
        [169, 254, ..] => AddressClass::LinkLocal,
        [224..=239, ..] => AddressClass::Multicast,
        // Protocol assignments, the three documentation blocks, 6to4 relays, AS112, benchmarks, the future and broadcast.
        [192, 0, 0, _]
        | [192, 0, 2, _]
        | [198, 51, 100, _]
        | [203, 0, 113, _]
        | [192, 88, 99, _]
        | [192, 31, 196, _]
        | [192, 52, 193, _]
        | [192, 175, 48, _]
        | [198, 18..=19, ..]
        | [240..=255, ..] => AddressClass::Reserved,
        _ => AddressClass::Public,
    }
}

fn classify_v6(address: Ipv6Addr) -> AddressClass {
    let parts = address.segments();
    match parts {
        [0, 0, 0, 0, 0, 0, 0, 0] => AddressClass::Unspecified,
        [0, 0, 0, 0, 0, 0, 0, 1] => AddressClass::Loopback,
        [0xfc00..=0xfdff, ..] => AddressClass::Private,
        // fec0::/10 was "site-local".
        [0xfe80..=0xfebf, ..] => AddressClass::LinkLocal,
        [0xfec0..=0xfeff, ..] => AddressClass::Private,
        [0xff00..=0xffff, ..] => AddressClass::Multicast,
        // IETF protocol assignments with Teredo, documents (two blocks).
        [0x2001, 0..=0x1ff, ..] | [0x2001, 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => AddressClass::Reserved,
        // What is given out is global unicast; all else waits for a use.
        [0x2000..=0x3fff, ..] => AddressClass::Public,
        _ => AddressClass::Reserved,
    }
}

/// The IPv4 address that a translator or a tunnel would send this one to.
fn carried(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let v4 = |high: u16, low: u16| {
        let [a, b] = high.to_be_bytes();
        let [c, d] = low.to_be_bytes();
        Ipv4Addr::new(a, b, c, d)
    };
    match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => None,
        // IPv4-mapped, IPv4-compatible, IPv4-translated (RFC 2765), NAT64 (RFC 6052), 6to4 (RFC 3056).
        [0, 0, 0, 0, 0, 0xffff, high, low]
        | [0, 0, 0, 0, 0, 0, high, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        | [0x2002, high, low, ..] => Some(v4(high, low)),
        _ => None,
    }
}

/// A block of addresses, such as `10.0.0.0/8` or `fd00::/8`; a single address is a block of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    base: IpAddr,
    bits: u32,
}

impl Block {
    /// Whether the address is inside. An IPv4-mapped IPv6 address counts as its IPv4 address.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.base, address.to_canonical()) {
            (IpAddr::V4(base), IpAddr::V4(address)) => {
                let shift = 32 - self.bits;
                let cut = |address: Ipv4Addr| address.to_bits().checked_shr(shift).unwrap_or(0);
                cut(base) == cut(address)
            }
            (IpAddr::V6(base), IpAddr::V6(address)) => {
                let shift = 128 - self.bits;
                let cut = |address: Ipv6Addr| address.to_bits().checked_shr(shift).unwrap_or(0);
                cut(base) == cut(address)
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

/// Why a text allows nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is neither a block of addresses such as 10.0.0.0/8, nor an address, nor a host name such as hooks.internal or *.internal"
)]
pub struct InvalidAllowed(String);

impl FromStr for Block {
    type Err = InvalidAllowed;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || InvalidAllowed(text.to_owned());
        let (base, bits) = text.split_once('/').map_or((text, None), |(base, bits)| (base, Some(bits)));
        let base: IpAddr = base.trim_matches(['[', ']']).parse().map_err(|_| wrong())?;
        let most = if base.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Ok(most), str::parse).map_err(|_| wrong())?;
        if bits > most {
            return Err(wrong());
        }
        Ok(Self { base, bits })
    }
}

/// One entry of what may be called although it is not public.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Allowed {
    /// These addresses, under whatever name.
    Block(Block),
    /// This host, whatever its addresses are.
    Host(String),
    /// Every host below this domain, which is kept with its leading dot.
    Below(String),
}

impl FromStr for Allowed {
    type Err = InvalidAllowed;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        if let Ok(block) = text.parse() {
            return Ok(Self::Block(block));
        }
        let name = text.trim_end_matches('.').to_ascii_lowercase();
        let (below, host) = name.strip_prefix("*.").map_or((false, name.as_str()), |host| (true, host));
        let label = |label: &str| {
            !label.is_empty() && label.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
        };
        // A name whose last label is a number is an address that somebody got wrong.
        let is_number = host.rsplit('.').next().is_some_and(|last| last.chars().all(|c| c.is_ascii_digit()));
        if host.len() > 253 || is_number || !host.split('.').all(label) {
            return Err(InvalidAllowed(text.to_owned()));
        }
        Ok(if below { Self::Below(format!(".{host}")) } else { Self::Host(host.to_owned()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap_or_else(|_| panic!("{text} is an address"))
    }

    #[test]
    fn every_special_block_is_known_at_both_its_ends() {
        use AddressClass::{
            CarrierGrade, LinkLocal, Loopback, Metadata, Multicast, Private, Public, Reserved, Unspecified,
        };
        for (class, addresses) in [
            (
                Public,
                "1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.0",
            ),
            (Public, "169.253.255.255 169.255.0.0 172.15.255.255 172.32.0.0 192.167.255.255 192.169.0.0"),
            (
                Public,
                "198.17.255.255 198.20.0.0 223.255.255.255 2606:4700:4700::1111 2001:200::1 2a00:1450::1",
            ),
            (Unspecified, "0.0.0.0 0.255.255.255 ::"),
            (Loopback, "127.0.0.1 127.255.255.255 ::1 ::ffff:127.0.0.1 ::127.0.0.1 64:ff9b::7f00:1"),
            (Private, "10.0.0.0 10.255.255.255 172.16.0.0 172.31.255.255 192.168.0.0 192.168.255.255"),
            (
                Private,
                "fc00:: fdff:ffff::1 fec0::1 ::ffff:10.0.0.1 64:ff9b::a00:1 2002:a00:1:: ::ffff:0:a00:1",
            ),
            (CarrierGrade, "100.64.0.0 100.127.255.255 ::ffff:100.64.0.1"),
            (LinkLocal, "169.254.0.0 169.254.255.255 fe80::1 febf::1 ::ffff:169.254.1.1"),
            (
                Metadata,
                "169.254.169.254 169.254.170.2 168.63.129.16 100.100.100.200 192.0.0.192 fd00:ec2::254",
            ),
            (Metadata, "::ffff:169.254.169.254 64:ff9b::a9fe:a9fe 2002:a9fe:a9fe::1"),
            (Multicast, "224.0.0.0 239.255.255.255 ff00:: ff02::1 ffff::1"),
            (Reserved, "192.0.0.1 192.0.2.1 198.51.100.1 203.0.113.1 198.18.0.0 198.19.255.255 192.88.99.1"),
            (Reserved, "240.0.0.0 255.255.255.255 2001:db8::1 2001::1 2001:1ff::1 3fff::1 100::1 5f00::1"),
            (Reserved, "64:ff9b:1::1 4000::1 1fff::1"),
        ] {
            for text in addresses.split(' ') {
                assert_eq!(classify(address(text)), class, "{text}");
            }
        }
    }

    #[test]
    fn blocks_contain_what_their_bits_say() {
        for (block, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.0"),
            ("10.1.2.3/8", "10.0.0.1", "9.255.255.255"),
            ("192.168.1.7", "192.168.1.7", "192.168.1.8"),
            ("192.168.1.0/31", "192.168.1.1", "192.168.1.2"),
            ("0.0.0.0/0", "255.255.255.255", "::1"),
            ("10.0.0.0/8", "::ffff:10.0.0.1", "::ffff:11.0.0.1"),
            ("fd00::/8", "fdff::1", "fc00::1"),
            ("::/0", "fe80::1", "1.2.3.4"),
            ("[::1]", "::1", "::2"),
        ] {
            let parsed: Block = block.parse().expect("a block");
            assert!(parsed.contains(address(inside)), "{inside} is in {block}");
            assert!(!parsed.contains(address(outside)), "{outside} is not in {block}");
        }
    }

    #[test]
    fn what_is_neither_a_block_nor_a_host_is_refused_by_its_text() {
        for text in [
            "10.0.0.0/33",
            "::/129",
            "10.0.0/8",
            "10.0.0.0/x",
            "10.0.0.256",
            "",
            "*",
            "*.",
            "a b",
            "a..b",
            "-/8",
        ] {
            let refusal = text.parse::<Allowed>().expect_err(text).to_string();
            assert!(refusal.contains(&format!("{text:?}")), "{refusal}");
        }
        assert_eq!("Hooks.Internal.".parse(), Ok(Allowed::Host("hooks.internal".into())));
        assert_eq!("*.Internal".parse(), Ok(Allowed::Below(".internal".into())));
    }
}
