//! CONNECT of every version: finds out the dialect, then reads the rest by its rules.
//!
//! - Owns: nothing. Takes: the first packet of a connection. Gives: [`Connect`].
//! - Bound: the listener's packet size. Everything is copied out of the read buffer, because it lives
//!   as long as the connection (will, password) or its session.
//! - Source: MQTT 5.0 section 3.1, MQTT 3.1.1 section 3.1, MQTT 3.1 section 3.1.
//!
//! A refused protocol level is [`Reason::UnsupportedProtocolVersion`] with the dialect in which to say
//! so: levels above 5 get the form of 5.0 (0x84); levels below 3 and the bridge variants of 3 and 4
//! (0x83, 0x84) the form of 3.1.1 (code 1). A foreign protocol name is answered by closing.

use std::num::{NonZeroU16, NonZeroU32};

use bytes::Bytes;

use super::{
    field::{Fault, Frame, Reader},
    property::{Forwarded, IN_CONNECT, IN_WILL, Properties, Value, id},
};
use crate::model::{
    message::Qos,
    reason::Reason,
    wire::{Connect, DecodeError, DecodeLimits, Dialect, Will},
};

/// Levels of the protocol that we speak.
const LEVEL_3_1: u8 = 3;
const LEVEL_3_1_1: u8 = 4;
const LEVEL_5: u8 = 5;
/// Set in the level by brokers that bridge.
const BRIDGE_BIT: u8 = 0x80;

/// Bits of the connect flags, MQTT 5.0 section 3.1.2.3.
const RESERVED: u8 = 0x01;
const CLEAN_START: u8 = 0x02;
const WILL: u8 = 0x04;
const WILL_QOS_AND_RETAIN: u8 = 0x38;
const WILL_RETAIN: u8 = 0x20;
const PASSWORD: u8 = 0x40;
const USER_NAME: u8 = 0x80;

/// Reads the body of a CONNECT.
pub(super) fn decode(
    bytes: &Bytes,
    frame: Frame,
    limits: &DecodeLimits,
) -> Result<Connect, DecodeError> {
    let mut reader = Reader::new(bytes, frame);
    let (name, level) =
        protocol(&mut reader).map_err(|fault| fault.told_in(Dialect::MqttUnknown))?;
    let unsupported =
        Fault::new(Reason::UnsupportedProtocolVersion, "protocol version is not supported");
    let dialect = match (name, level) {
        (b"MQIsdp", LEVEL_3_1) | (b"MQTT", LEVEL_3_1_1) => Dialect::MqttV4,
        (b"MQTT", LEVEL_5) => Dialect::MqttV5,
        (b"MQTT" | b"MQIsdp", _) => {
            let old = level & !BRIDGE_BIT < LEVEL_5;
            return Err(unsupported.told_in(if old { Dialect::MqttV4 } else { Dialect::MqttV5 }));
        }
        _ => return Err(unsupported.told_in(Dialect::MqttUnknown)),
    };
    let rest = Rest { level, dialect, limits };
    rest.read(&mut reader).map_err(|fault| fault.told_in(dialect))
}

fn protocol<'a>(reader: &mut Reader<'a>) -> Result<(&'a [u8], u8), Fault> {
    Ok((reader.binary()?, reader.u8()?))
}

/// Everything behind the protocol level.
struct Rest<'a> {
    level: u8,
    dialect: Dialect,
    limits: &'a DecodeLimits,
}

impl Rest<'_> {
    fn read(&self, reader: &mut Reader<'_>) -> Result<Connect, Fault> {
        let flags = reader.u8()?;
        self.check_flags(flags)?;
        let mut connect = self.defaults(flags);
        connect.keep_alive_secs = reader.u16()?;
        if self.is_v5() {
            self.properties(reader, &mut connect)?;
        }
        connect.client_id = reader.text()?.to_owned();
        if flags & WILL != 0 {
            connect.will = Some(self.will(reader, flags)?);
        }
        if flags & USER_NAME != 0 {
            connect.user_name = Some(reader.text()?.to_owned());
        }
        if flags & PASSWORD != 0 {
            connect.password = Some(Bytes::copy_from_slice(reader.binary()?));
        }
        reader.finish()?;
        self.check_client_id(&connect)?;
        Ok(connect)
    }

    fn is_v5(&self) -> bool {
        self.dialect == Dialect::MqttV5
    }

    fn check_flags(&self, flags: u8) -> Result<(), Fault> {
        if flags & RESERVED != 0 {
            return Err(Fault::malformed("reserved connect flag is set"));
        }
        if flags & WILL == 0 && flags & WILL_QOS_AND_RETAIN != 0 {
            return Err(Fault::malformed("will QoS or will retain without a will"));
        }
        if !self.is_v5() && flags & PASSWORD != 0 && flags & USER_NAME == 0 {
            return Err(Fault::malformed("password without a user name"));
        }
        Ok(())
    }

    /// What MQTT 5.0 section 3.1 says of fields that are absent.
    fn defaults(&self, flags: u8) -> Connect {
        let clean_start = flags & CLEAN_START != 0;
        Connect {
            clean_start,
            session_expiry_secs: if self.is_v5() || clean_start { 0 } else { u32::MAX },
            ..Connect::new(self.dialect, String::new())
        }
    }

    fn properties(&self, reader: &mut Reader<'_>, connect: &mut Connect) -> Result<(), Fault> {
        let mut authentication_data = false;
        let mut properties = Properties::open(reader, IN_CONNECT, self.limits.user_properties_max)?;
        while let Some(property) = properties.next()? {
            match (property.id, property.value) {
                (id::SESSION_EXPIRY, Value::Four(secs)) => connect.session_expiry_secs = secs,
                (id::RECEIVE_MAXIMUM, Value::Two(count)) => {
                    connect.receive_maximum =
                        NonZeroU16::new(count).ok_or(Fault::protocol("receive maximum is 0"))?;
                }
                (id::PACKET_BYTES_MAX, Value::Four(bytes)) => {
                    let bytes_max = NonZeroU32::new(bytes)
                        .ok_or(Fault::protocol("maximum packet size is 0"))?;
                    connect.packet_bytes_max = Some(bytes_max);
                }
                (id::TOPIC_ALIAS_MAXIMUM, Value::Two(count)) => connect.topic_alias_maximum = count,
                (id::REQUEST_RESPONSE, value) => {
                    connect.request_response_information =
                        value.flag("request response information is not 0 or 1")?;
                }
                (id::REQUEST_PROBLEM, value) => {
                    connect.request_problem_information =
                        value.flag("request problem information is not 0 or 1")?;
                }
                (id::AUTH_METHOD, Value::Text(method)) => {
                    connect.authentication_method = Some(method.to_owned());
                }
                (id::AUTH_DATA, _) => authentication_data = true,
                _ => {}
            }
        }
        if authentication_data && connect.authentication_method.is_none() {
            return Err(Fault::protocol("authentication data without a method"));
        }
        Ok(())
    }

    fn will(&self, reader: &mut Reader<'_>, flags: u8) -> Result<Will, Fault> {
        let qos = Qos::from_bits(flags >> 3 & 3).ok_or(Fault::malformed("will QoS is 3"))?;
        let mut delay_secs = 0;
        let mut expiry_secs = None;
        let mut forwarded = Forwarded::default();
        if self.is_v5() {
            let mut properties =
                Properties::open(reader, IN_WILL, self.limits.user_properties_max)?;
            while let Some(property) = properties.next()? {
                match (property.id, property.value) {
                    (id::WILL_DELAY, Value::Four(secs)) => delay_secs = secs,
                    (id::MESSAGE_EXPIRY, Value::Four(secs)) => expiry_secs = Some(secs),
                    _ => forwarded.add(&property, properties.source())?,
                }
            }
        }
        let topic = reader
            .topic_name(self.limits)?
            .ok_or(Fault::new(Reason::TopicNameInvalid, "will topic is empty"))?;
        let payload = Bytes::copy_from_slice(reader.binary()?);
        forwarded.check_payload(&payload)?;
        Ok(Will {
            topic: topic.detached(),
            payload,
            qos,
            retain: flags & WILL_RETAIN != 0,
            delay_secs,
            expiry_secs,
            properties: Bytes::copy_from_slice(&forwarded.into_bytes(reader.source())),
        })
    }

    fn check_client_id(&self, connect: &Connect) -> Result<(), Fault> {
        let refused = connect.client_id.is_empty()
            && match self.level {
                LEVEL_3_1 => true,
                LEVEL_3_1_1 => !connect.clean_start,
                _ => false,
            };
        if refused {
            return Err(Fault::new(Reason::ClientIdNotValid, "client id is empty"));
        }
        Ok(())
    }
}
